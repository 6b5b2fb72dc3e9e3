"""Merges in processes of their own, ended in many ways, and what must hold of the folder afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torture.models import Checkpoints, damage

from sta_kernels.checkpoint.digest import hash_file
from sta_kernels.engine import verify
from sta_kernels.engine.journal import JOURNAL_NAME
from sta_kernels.engine.lock import LOCK_NAME
from sta_kernels.engine.output import MANIFEST_NAME

MOST_SECONDS = 600
_PROGRAM = [sys.executable, "-m", "sta_kernels"]
_SHIM = Path(__file__).with_name("shim.c")


def built_shim(folder: Path) -> Path:
    """Compile what is preloaded."""
    library = folder / "shim.so"
    compiler = os.environ.get("CC", "cc")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SHIM), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


@dataclass(frozen=True)
class Ended:
    """How a merge ended.

    Attributes:
        code: of the process; negative for a signal.
        said: on standard error.
        seconds: that it took.
    """

    code: int
    said: str
    seconds: float


class Case:
    """One recipe, what it gives when nothing happens, and a folder in which things happen.

    Args:
        checkpoints: to be merged.
        name: of the recipe.
        work: folder for outputs.

    Raises:
        RuntimeError: it does not even go well undisturbed.
    """

    def __init__(self, checkpoints: Checkpoints, name: str, work: Path) -> None:
        self.name = name
        self.checkpoints = checkpoints
        self.out = work / f"out-{name}"
        shutil.rmtree(self.out, ignore_errors=True)
        done = self.run()
        if done.code:
            raise RuntimeError(done.said)
        self.whole = {path.name: hash_file(path)[1] for path in self.out.iterdir()}
        self.sizes = [path.stat().st_size for path in self.out.iterdir()]
        self.bytes = sum(self.sizes)
        self.clear()
        self.seconds = self.run().seconds
        self.check_whole()

    def start(
        self, environment: Mapping[str, str] = {}, prepare: Callable[[], None] | None = None
    ) -> subprocess.Popen[str]:
        """Begin the merge."""
        return subprocess.Popen(
            [*_PROGRAM, *self.checkpoints.command(self.name, self.out)],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            preexec_fn=prepare,
        )

    def run(self, environment: Mapping[str, str] = {}, prepare: Callable[[], None] | None = None) -> Ended:
        """The merge, to its end."""
        begin = time.monotonic()
        process = self.start(environment, prepare)
        _, said = process.communicate(timeout=MOST_SECONDS)
        return Ended(process.returncode, said, time.monotonic() - begin)

    def stop_after(self, seconds: float, number: int) -> Ended:
        """The merge, with a signal after so long."""
        begin = time.monotonic()
        process = self.start()
        try:
            _, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            _, said = process.communicate(timeout=MOST_SECONDS)
        return Ended(process.returncode, said, time.monotonic() - begin)

    def clear(self) -> None:
        """Remove the output."""
        shutil.rmtree(self.out, ignore_errors=True)

    def check_nothing_half(self) -> str:
        """Nothing stands under a final name that is not whole; returns how far the merge had come.

        Raises:
            AssertionError: names the file.
        """
        if not self.out.exists():
            return "before the folder"
        names = {path.name for path in self.out.iterdir()}
        final = {name for name in names if not name.startswith(".")}
        for name in final:
            assert name in self.whole, f"{name} is nothing that the merge writes"
            assert hash_file(self.out / name)[1] == self.whole[name], f"{name} is not whole"
        if MANIFEST_NAME in final:
            assert final == set(self.whole), "the manifest stands, and files are missing"
            return "finished"
        if final:
            return "taking names"
        return "writing" if any(name.endswith(".partial") for name in names) else "starting"

    def cut_power(self, generator: np.random.Generator) -> None:
        """Damage what was written and not synced: pages of the files on their way, and the end of the journal."""
        journal = self.out / JOURNAL_NAME
        if not journal.exists() or b'"publishing"' in journal.read_bytes():
            return  # from there on all is synced
        for path in self.out.glob(".*.partial"):
            data = bytearray(path.read_bytes())
            damage(data, generator)
            path.write_bytes(data)
        content = journal.read_bytes()
        kept = int(generator.integers(len(content) + 1))
        journal.write_bytes(content[:kept] + bytes(len(content) - kept if generator.random() < 0.5 else 0))

    def check_whole(self) -> None:
        """The folder holds what the undisturbed merge wrote, bit for bit, and nothing else.

        Raises:
            AssertionError: names what differs.
        """
        found = {path.name: hash_file(path)[1] for path in self.out.iterdir()}
        assert found.keys() == self.whole.keys(), sorted(found.keys() ^ self.whole.keys())
        differing = [name for name, digest in found.items() if digest != self.whole[name]]
        assert not differing, f"{differing} differ from the undisturbed merge"
        assert verify(self.out) == []

    def resume(self) -> None:
        """The same command, to its end, and to the same bits.

        Raises:
            AssertionError: it did not go well.
        """
        done = self.run()
        assert done.code == 0, f"the resumed merge ended with {done.code}: {done.said}"
        self.check_whole()


def check_stopped(case: Case, ended: Ended, number: int) -> bool:
    """What a signal that can be caught must leave; whether it came while the merge ran.

    Raises:
        AssertionError: it ended in another way.
    """
    if ended.code == 0:
        return False
    if ended.code == -number or "Traceback" in ended.said:  # the interpreter itself was still starting, or ending
        assert case.check_nothing_half() in ("before the folder", "finished"), ended.said
        return False
    assert ended.code == 128 + number, ended.said
    assert "the same command continues where it stopped" in ended.said, ended.said
    assert not (case.out / LOCK_NAME).exists()
    return True


SIGNALS = (signal.SIGINT, signal.SIGTERM)
