"""Rows of ``results/*.jsonl``: what was measured, of which revision, on which machine."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"

Row = dict[str, Any]


def program() -> list[str]:
    """The command line that was installed with this interpreter; run it in :data:`HERE`, beside no source tree."""
    script = Path(sys.executable).with_name("sta-kernels")
    return [str(script)] if script.exists() else [sys.executable, "-m", "sta_kernels"]


def environment() -> Row:
    """What every row of a run has in common.

    Raises:
        RuntimeError: the native core, which is what is measured, does not serve.
    """
    done = subprocess.run([*program(), "info", "--json"], cwd=HERE, stdout=subprocess.PIPE, text=True, check=True)
    facts = json.loads(done.stdout)
    if facts["backend"] != "native":
        raise RuntimeError(f"only the native core is worth timing, and it does not serve: {facts['reason']}")
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "revision": revision(),
        "machine": {
            "processor": processor(),
            "cores": facts["threads"],
            "isa": facts["native"]["instruction_sets"][-1],
            "platform": facts["platform"],
        },
        "versions": {
            "sta_kernels": facts["version"],
            "core": facts["native"]["build"],
            "python": facts["python"],
            "numpy": facts["libraries"]["numpy"],
            "torch": facts["libraries"]["torch"],
        },
    }


def revision() -> str:
    """The commit that is checked out; "-dirty" where tracked files differ from it, rows measured since excepted."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if changed else commit


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=HERE.parent, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # no /proc
        pass
    return platform.processor() or platform.machine()


def append(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to the files of their ops."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        with open(folder / f"{row['op']}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def read(folder: Path) -> list[Row]:
    """All rows, each file's in the order in which they were measured."""
    return [
        json.loads(line)
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


def rounded(value: float) -> float:
    """Six significant digits: more than any clock gives."""
    return float(f"{value:.6g}")
