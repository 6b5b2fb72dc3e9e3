"""The GPU benchmark without its clock: what it compares gives the same results, and what it writes are rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[3]))

from benchmarks import baselines, records
from benchmarks.gpu import merges, others, plot
from benchmarks.gpu.timing import COPY, contest
from benchmarks.operands import FORMATS
from benchmarks.summary import contest_table
from sta_kernels.kernels import ENVIRONMENT_VARIABLE

DEVICE = torch.device("cpu")
COMMON = {"time": "2026-01-01T00:00:00+00:00", "revision": "abc", "machine": {"gpu": "a gpu"}, "versions": {}}


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "triton")


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def model(formats: str = "float32", n_tasks: int = 3) -> merges.Model:
    return merges.Model.random([100, 7, 33], formats, n_tasks, DEVICE)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("formats", FORMATS)
def test_contenders_agree(formats: str, given: bool):
    found = merges.contenders(model(formats), given=given, compiled=uncompiled)
    assert [each.name for each in found] == [
        "sta_merge",
        "a launch per tensor",
        "eager",
        *(["torch.compile"] if given else []),
        COPY,
    ]
    weight, importance = FORMATS[formats]
    bytes_of_merge = 140 * (5 * weight.itemsize + (3 if given else 6) * importance.itemsize)
    assert {each.n_bytes for each in found[:-1]} == {bytes_of_merge}


def test_a_wrong_contender_is_not_timed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(merges, "P", 0.2)
    network = baselines.sta_merge_network
    with pytest.raises(AssertionError, match="no timing of a wrong result"):
        merges.contenders(
            model(), given=True, compiled=lambda function: lambda *each: network(*each[:4], each[4] + 1, each[5])
        )


def test_a_wrong_kernel_is_not_timed(monkeypatch: pytest.MonkeyPatch):
    launch = merges.launch_sta_merge
    monkeypatch.setattr(merges, "launch_sta_merge", lambda *args, k, **rest: launch(*args, k=k - 1, **rest))
    with pytest.raises(AssertionError, match="no timing of a wrong result"):
        merges.contenders(model(), given=True, compiled=uncompiled)


def test_the_other_ops():
    found = list(others.contests(DEVICE, 300, uncompiled))
    assert [op for op, _, _ in found] == [
        "minmax",
        "order_statistic",
        "sta_forget",
        "task_arithmetic",
        "taylor_accumulate",
    ]
    for op, contenders, case in found:
        assert contenders[0].name == op
        assert contenders[-1].name == COPY
        assert case["elements"] == 300


def rows(**case: Any) -> list[dict[str, Any]]:
    times = iter([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0], [0.5, 1.0, 1.5]])
    contenders = [merges.Contender(name, lambda: None, n_bytes) for name, n_bytes in (("a", 8), ("b", 8), (COPY, 6))]
    return contest("sta_merge", contenders, case, lambda run: next(times), COMMON)


def test_rows(tmp_path: Path):
    ours, baseline, copied = rows(models=3)
    assert ours["seconds"] == {"p20": 1.4, "p50": 2.0, "p80": 2.6}
    assert (ours["op"], ours["rounds"], ours["bytes_per_second"]) == ("gpu-sta_merge", 3, 4.0)
    assert baseline["speedup"] == {"medians": 2.0}
    assert copied["share"] == {"medians": 0.666667}  # 4 bytes a second of 6
    records.append(tmp_path, [ours, copied])
    assert [json.loads(line) for line in (tmp_path / "gpu-sta_merge.jsonl").read_text().splitlines()] == [ours, copied]
    assert "0.667" in contest_table([ours, copied])


def test_the_picture_is_of_rows(tmp_path: Path):
    case = {"model": "a model", "weights": "float32", "importances": "float32", "normaliser": "given"}
    taken = [*rows(models=3, **case), *rows(models=2, **case), *rows(models=2, **{**case, "normaliser": "computed"})]
    assert plot.shares(taken) == {("a gpu", "a model"): {"float32, float32": {3: 0.666667, 2: 0.666667}}}
    assert plot.draw(taken, tmp_path) == tmp_path / "gpu-sta_merge.png"
    assert (tmp_path / "gpu-sta_merge.png").stat().st_size > 1000
    assert plot.draw([], tmp_path) is None
