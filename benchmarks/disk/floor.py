"""The floor of a merge, ``floor.cpp``: the same bytes read and written, and nothing else."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("floor.cpp")


@dataclass(frozen=True)
class Floor:
    """The compiled program.

    Attributes:
        program: its path.
        threads: it runs on.
        chunk: bytes of a read or write; None for the program's own.
    """

    program: Path
    threads: int = 2
    chunk: int | None = None

    def run(self, inputs: Sequence[Path], output: Path, size: int, *, sync: bool = False) -> float:
        """Read the inputs and write ``size`` bytes, allocated beforehand as the engine does; returns the seconds.

        Args:
            inputs: read whole.
            output: made anew.
            size: of the output.
            sync: one fdatasync at the end, and write-back started early, as a merge to a disk does.

        Raises:
            subprocess.CalledProcessError: a file cannot be read or written; the message is on the terminal.
            AssertionError: it did not move the bytes it was to move.
        """
        command = [str(self.program), "--threads", str(self.threads), "--preallocate"]
        if self.chunk is not None:
            command += ["--chunk", str(self.chunk)]
        if sync:
            command += ["--sync", "--write-back"]
        sizes = [path.stat().st_size for path in inputs]
        for path, length in zip(inputs, sizes, strict=True):
            command += ["--read", str(path), str(length)]
        command += ["--write", str(output), str(size)]
        told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        assert (told["read"], told["written"]) == (sum(sizes), size), told
        return float(told["seconds"])


def compile_program(folder: Path) -> Path:
    """The program in ``folder``, compiled with $CXX, or c++.

    Raises:
        RuntimeError: there is no such compiler.
        subprocess.CalledProcessError: it fails; its message is on the terminal.
    """
    program = folder / "floor"
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    try:
        subprocess.run([*compiler, "-O2", "-std=c++17", "-pthread", str(SOURCE), "-o", str(program)], check=True)
    except FileNotFoundError:
        raise RuntimeError(f"the floor needs a C++ compiler, and {compiler[0]} is not there: set CXX") from None
    return program
