"""A folder with checkpoints and the floor's program, as long as it is measured there."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from benchmarks import records
from benchmarks.disk import models, pressure
from benchmarks.disk.contest import Bench
from benchmarks.disk.floor import Floor, compile_program
from benchmarks.disk.recipes import RECIPES

MB = 10**6
SPARE = 1000 * MB
"""Memory that the processes themselves need, beside files on tmpfs."""


class NoRoomError(RuntimeError):
    """The files would not fit."""


def add_options(parser: argparse.ArgumentParser, *, rounds: int) -> None:
    """What every kind of run is told."""
    option = parser.add_argument
    option("--threads", type=int, default=2, help="of floor, merge and mergekit (default: 2)")
    option("--rounds", type=int, default=rounds, help=f"default: {rounds}")
    option("--tmpfs", type=Path, default=Path("/dev/shm"), metavar="DIR", help="default: /dev/shm")
    option("--no-tmpfs", action="store_true", help="measure on the disk alone")
    option("--disk", type=Path, metavar="DIR", help="measure cold merges there, too")
    option("--cache", type=int, metavar="MB", help="on the disk: leave so much memory, and hold the rest meanwhile")
    option("--chunk", type=int, metavar="BYTES", help="of the floor's I/O (default: the fastest of several)")
    option("--options", default="", help="more arguments of `sta-kernels merge`, as one word")
    option("--results", type=Path, default=records.RESULTS, metavar="DIR", help="default: benchmarks/results")


def storages(arguments: argparse.Namespace) -> dict[str, Path]:
    """Where to measure, by kind; files are removed when the process is told to end, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    found = {} if arguments.no_tmpfs else {"tmpfs": arguments.tmpfs}
    return found if arguments.disk is None else {**found, "disk": arguments.disk}


@contextmanager
def bench(arguments: argparse.Namespace, storage: str, megabytes: int, n_models: int) -> Iterator[Bench]:
    """Checkpoints of that size and number on a storage, ready to be merged.

    Raises:
        NoRoomError: nothing was written.
        RuntimeError: there is no compiler, or not so much memory to hold.
    """
    place = storages(arguments)[storage]
    importances = any(RECIPES[name].measure for name in arguments.recipes)
    needed = (n_models * (2 if importances else 1) + 2) * megabytes * MB  # with the base, and one output
    check_room(place, needed, in_memory=storage == "tmpfs")
    little = storage == "disk" and arguments.cache is not None
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = Path(name)
        family = models.write(folder, megabytes * MB, n_models, importances=importances)
        floor = Floor(compile_program(folder), arguments.threads, arguments.chunk)
        options: Sequence[str] = arguments.options.split()
        with pressure.leaving(arguments.cache * MB) if little else nullcontext():
            made = Bench(storage, family, megabytes, folder, floor, arguments.rounds, options, arguments.cache)
            yield made if arguments.chunk else made.fitted()


def check_room(folder: Path, size: int, *, in_memory: bool) -> None:
    """Refuse before anything is written.

    Raises:
        NoRoomError: says how much there is.
    """
    free = shutil.disk_usage(folder).free
    if in_memory:
        free = min(free, pressure.available() - SPARE)
    if free < size:
        raise NoRoomError(f"{folder}: {size // MB} MB are needed, {free // MB} free")
