"""The committed corpora, replayed: nothing that was ever found is a crash, or takes long."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.packing import CORPUS, corpus, packed, unpacked
from fuzz.readers import READERS, accepts
from fuzz.seeds import SEEDS, seeds

from sta_kernels.kernels import native_problem
from sta_kernels.kernels.native_calls import load_core

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("reader", READERS)
def test_readers(reader: str) -> None:
    inputs = [*seeds(reader), *corpus(reader)]
    accepted = sum(accepts(READERS[reader], data) for data in inputs)  # all of them are tried
    assert accepted > 0


def test_the_core(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if native_problem() is not None:
        pytest.skip(native_problem())
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler")
    library, program = Path(load_core()._name), tmp_path / "replay"
    command = [compiler, "-std=c++17", "-O1", "-DSTA_REPLAY", f"-I{ROOT / 'bindings/include'}", "-o", str(program)]
    command += [str(ROOT / "tests/fuzz/core.cpp"), str(library), f"-Wl,-rpath,{library.parent}"]
    clean = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    subprocess.run([*command, "-Wl,--allow-shlib-undefined"], check=True, env=clean)
    done = subprocess.run([str(program), str(CORPUS / "core.bin")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) == len(corpus("core")) > 0
    with capsys.disabled():
        sys.stdout.write(f"core: {done.stdout}")


def test_packing() -> None:
    inputs = [b"", b"a", bytes(4096)]
    assert unpacked(packed(inputs)) == inputs
    with pytest.raises(ValueError, match="cut off"):
        unpacked(packed(inputs)[:-1])


def test_every_target_has_a_corpus() -> None:
    assert {path.stem for path in CORPUS.glob("*.bin")} == set(SEEDS) == {*READERS, "core"}


def test_a_crash_would_be_seen() -> None:
    def broken(data: bytes) -> None:
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        accepts(broken, b"{}")
