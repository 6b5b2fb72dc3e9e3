"""The verdicts on recorded rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CASE = {"elements": 10, "models": 6, "weights": "float32", "importances": "float32", "threads": 2}
COMMON = {
    "time": "2026-01-01T00:00:00+00:00",
    "revision": "abc",
    "machine": {"processor": "a processor", "cores": 2, "isa": "avx2"},
    "versions": {"sta_kernels": "1", "torch": "2"},
}


def ratio(value: float) -> dict[str, float]:
    return {"medians": value, "p20": value - 0.01, "p50": value, "p80": value + 0.01}


def row(contender: str, *, share: float = 1.0, speedup: float = 1.0, **case: Any) -> dict[str, Any]:
    figures = {"share": ratio(share), "speedup": ratio(speedup)}
    return {"op": "sta_merge", "contender": contender, "case": CASE | {"normaliser": "given"} | case} | figures | COMMON


def select(speedup: float) -> dict[str, Any]:
    case = {"elements": 40, "dtype": "float32", "threads": 2}
    return {"op": "order_statistic", "contender": "stream_read", "case": case, "speedup": ratio(speedup)} | COMMON


def memory(limit: int, peak: int, digest: str = "a") -> dict[str, Any]:
    case = {"checkpoint_bytes": 5_000_000, "models": 4, "max_memory": limit * 10**6, "threads": 2}
    figures = {"rss_anon": peak * 10**6, "samples": 9, "sha256": digest}
    return {"op": "memory", "contender": "sta-kernels merge", "case": case} | figures | COMMON


def lines(folder: Path, *rows: dict[str, Any]) -> tuple[int, list[str]]:
    """Exit code, and the lines on kernels that are about anything measured."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    command = [sys.executable, "-m", "benchmarks.summary", "--results", str(folder)]
    done = subprocess.run(
        [*command, "--elements", "10", "--megabytes", "5"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    bars, origin, *_ = done.stdout.split("\n\n")
    told = [line for line in bars.splitlines()[2:] if "not measured" not in line]
    return done.returncode, [*told, "", *origin.splitlines()]


def test_without_rows_nothing_passes(tmp_path: Path):
    code, found = lines(tmp_path)
    assert code == 1
    assert found == ["", "Nothing has been measured at these sizes."]


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (row("stream_sum", share=0.9), "| pass "),
        (row("stream_sum", share=0.89), "| **falls short** "),
        (row("stream_sum + stream_read", share=0.74, normaliser="computed"), "| **falls short** "),
        (row("stream_sum", share=0.86, weights="bfloat16"), "| pass "),
        (row("torch.compile", speedup=4.1), "| pass "),
        (row("eager", speedup=59.0), "| **falls short** "),
        (select(1 / 5.9), "| pass "),
        (select(1 / 6.1), "| **falls short** "),
        (memory(256, 255), "| pass "),
        (memory(192, 193), "| **falls short** "),
    ],
)
def test_verdict(tmp_path: Path, measured: dict[str, Any], verdict: str):
    code, found = lines(tmp_path, measured)
    assert code == 1  # the others are not measured
    assert verdict in found[0]
    assert found[-1].startswith("Measured 2026-01-01, revision abc, sta_kernels 1 (avx2)")


def test_the_latest_row_of_the_case_counts(tmp_path: Path):
    rows = [row("stream_sum", share=0.5), row("stream_sum", share=0.95), row("stream_sum", share=0.6, zeros=0.1)]
    assert "| 0.950 (0.940 to 0.960) " in lines(tmp_path, *rows, row("stream_sum", share=0.7, elements=11))[1][0]


@pytest.mark.parametrize(("digest", "verdict"), [("a", "| pass "), ("b", "| **falls short** ")])
def test_digests_are_compared(tmp_path: Path, digest: str, verdict: str):
    found = lines(tmp_path, memory(192, 100), memory(256, 100), memory(2000, 100, digest))[1]
    assert verdict in found[3]
