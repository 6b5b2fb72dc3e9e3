"""The floor of a merge moves exactly the bytes that it says."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))
from benchmarks.disk.floor import Floor, compile_program


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(tmp_path_factory.mktemp("floor"))


def files(folder: Path, *sizes: int) -> list[Path]:
    paths = [folder / f"in-{i}" for i in range(len(sizes))]
    for i, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        path.write_bytes(random.Random(i).randbytes(size))
    return paths


@pytest.mark.parametrize("size", [0, 1, 4096, 100_000, 1_000_003])
@pytest.mark.parametrize("chunk", [4096, 65536, None])
@pytest.mark.parametrize("sync", [False, True])
def test_what_was_read_last_is_written(program: Path, tmp_path: Path, size: int, chunk: int | None, sync: bool):
    inputs = files(tmp_path, 300_001, size)
    out = tmp_path / "out"
    assert Floor(program, 3, chunk).run(inputs, out, size, sync=sync) > 0
    assert out.read_bytes() == inputs[-1].read_bytes()


@pytest.mark.parametrize("size", [1, 50_000, 2_000_000])
def test_outputs_of_any_size(program: Path, tmp_path: Path, size: int):
    Floor(program, 2, 8192).run(files(tmp_path, 700_001, 0, 99), tmp_path / "out", size)
    assert (tmp_path / "out").stat().st_size == size


def test_a_file_that_ends_early_is_an_error(program: Path, tmp_path: Path):
    (path,) = files(tmp_path, 10_000)
    done = subprocess.run([program, "--read", path, "10001"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"floor: {path}: ends at byte 10000\n"


@pytest.mark.parametrize(
    "arguments", [["--threads", "0"], ["--chunk", "1k"], ["--chunk", "1"], ["--read", "x"], ["-v"]]
)
def test_arguments_are_checked(program: Path, arguments: list[str]):
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("floor: ")
