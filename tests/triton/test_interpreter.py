"""Runs every file of tests/triton/interpreter in a process of its own, where Triton interprets its kernels."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("interpreter")
FILES = sorted(path.name for path in FOLDER.glob("test_*.py"))
SERVER = Path(__file__).with_name("interpreter_process.py")
TESTS_FAILED = 1


@pytest.fixture(scope="module")
def interpret(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], tuple[int, str]]]:
    """Runs a file: pytest's exit code, and what it said."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    environment.pop("STA_KERNELS_BACKEND", None)
    said = tmp_path_factory.mktemp("interpreter") / "said"
    server = subprocess.Popen(
        [sys.executable, str(SERVER)],
        env=environment,
        cwd=FOLDER.parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None

    def run(file: Path) -> tuple[int, str]:
        print(file, said, sep="\t", file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        return code, said.read_text(encoding="utf-8")

    yield run
    os.killpg(server.pid, signal.SIGKILL)  # with what it runs, if a test took too long
    server.communicate()


@pytest.mark.parametrize("file", FILES)
def test_in_the_interpreter(file: str, interpret: Callable[[Path], tuple[int, str]]) -> None:
    code, said = interpret(FOLDER / file)
    assert code == 0, said[-8000:]


def test_an_interpreted_test_that_fails_is_seen(tmp_path: Path, interpret: Callable[[Path], tuple[int, str]]) -> None:
    """The suite above is red when a kernel is wrong: the runner passes failures on."""
    wrong = tmp_path / "test_wrong.py"
    wrong.write_text("def test_wrong():\n    assert 1 == 2\n")
    code, said = interpret(wrong)
    assert code == TESTS_FAILED
    assert "assert 1 == 2" in said
