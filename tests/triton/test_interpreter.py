"""Runs every file of tests/triton/interpreter in a process of its own, where Triton interprets its kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("interpreter")
NO_TESTS = 5


@pytest.mark.parametrize("file", sorted(path.name for path in FOLDER.glob("test_*.py")))
def test_in_the_interpreter(file: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    environment.pop("STA_KERNELS_BACKEND", None)
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", str(FOLDER / file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=FOLDER.parents[1])
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"


def test_an_interpreted_test_that_fails_is_seen(tmp_path: Path) -> None:
    """The suite above is red when a kernel is wrong: the runner passes failures on."""
    wrong = tmp_path / "test_wrong.py"
    wrong.write_text("def test_wrong():\n    assert 1 == 2\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(wrong)]
    assert subprocess.run(command, capture_output=True, cwd=tmp_path).returncode not in (0, NO_TESTS)
