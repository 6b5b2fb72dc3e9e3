"""Merges from files to files: against the floor of their I/O, and against mergekit.

    python -m benchmarks.disk                                        # on tmpfs; 6 GB of it
    python -m benchmarks.disk --disk /var/tmp                        # and on a disk, cold
    python -m benchmarks.disk --mergekit-python .venv-mergekit/bin/python
    python -m benchmarks.disk --megabytes 50 --recipes sta ties --rounds 3 --results /tmp/rows    # a trial

Exit codes: 0: every bar that was measured is reached; 1: one is not; 2: there is no room, or no compiler.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import records
from benchmarks.disk import bars, models
from benchmarks.disk.contest import Bench
from benchmarks.disk.floor import Floor, compile_program
from benchmarks.disk.recipes import RECIPES
from benchmarks.summary import provenance

MB = 10**6
SPARE = 2000 * MB
"""Memory that the processes themselves need, beside files on tmpfs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, record, print."""
    parser = argparse.ArgumentParser("python -m benchmarks.disk", description=__doc__.split("\n")[0])
    option = parser.add_argument
    option("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="NAME", help=", ".join(RECIPES))
    option("--megabytes", type=int, default=bars.MEGABYTES, help="size of a checkpoint (default: 534, 267 M elements)")
    option("--models", type=int, default=bars.MODELS, help="fine-tuned checkpoints (default: 4)")
    option("--threads", type=int, default=bars.THREADS, help="of floor, merge and mergekit (default: 2)")
    option("--rounds", type=int, default=9, help="default: 9")
    option("--tmpfs", type=Path, default=Path("/dev/shm"), metavar="DIR", help="default: /dev/shm")
    option("--no-tmpfs", action="store_true", help="measure on the disk alone")
    option("--disk", type=Path, metavar="DIR", help="measure cold merges there, too")
    option("--mergekit-python", metavar="PROGRAM", help="Python that has mergekit 0.1.5")
    option("--mergekit-rounds", type=int, default=3, help="how many of the rounds mergekit runs in (default: 3)")
    option("--merge-options", nargs=argparse.REMAINDER, default=[], help="the rest goes to `sta-kernels merge`")
    option("--results", type=Path, default=records.RESULTS, metavar="DIR", help="default: benchmarks/results")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # gigabytes of files must not stay behind
    try:
        rows = list(measured(arguments))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    print(bars.table(rows, arguments.recipes, arguments.megabytes))
    print()
    print(provenance(rows))
    return 0 if bars.verdict(rows, arguments.recipes, arguments.megabytes) else 1


def measured(arguments: argparse.Namespace) -> Iterator[records.Row]:
    """Rows, each recorded as soon as it is there."""
    storages = {} if arguments.no_tmpfs else {"tmpfs": arguments.tmpfs}
    if arguments.disk is not None:
        storages["disk"] = arguments.disk
    common = records.environment()
    for storage, place in storages.items():
        check_room(place, needed(arguments), in_memory=storage == "tmpfs")
        with tempfile.TemporaryDirectory(dir=place) as name:
            folder = Path(name)
            bench = Bench(
                models.write(folder, arguments.megabytes * MB, arguments.models),
                folder,
                Floor(compile_program(folder), arguments.threads),
                arguments.rounds,
                storage == "disk",
                arguments.merge_options,
                arguments.mergekit_python if storage == "tmpfs" else None,
                arguments.mergekit_rounds,
            )
            for recipe in arguments.recipes:
                case = {
                    "recipe": recipe,
                    "storage": storage,
                    "models": arguments.models,
                    "megabytes": arguments.megabytes,
                    "threads": arguments.threads,
                    "options": arguments.merge_options,
                }
                row = {"op": bars.OP, "contender": bars.CONTENDER, "case": case}
                row |= bench.measure(RECIPES[recipe]) | common
                records.append(arguments.results, [row])
                print(told(row), flush=True)
                yield row


def needed(arguments: argparse.Namespace) -> int:
    """Bytes of the files that are there at once: checkpoints, importances, one output."""
    with_importance = any(RECIPES[name].measure for name in arguments.recipes)
    return (arguments.models * (2 if with_importance else 1) + 2) * arguments.megabytes * MB


def check_room(folder: Path, size: int, *, in_memory: bool) -> None:
    """Refuse before anything is written.

    Raises:
        RuntimeError: there is no room; says how much there is.
    """
    free = shutil.disk_usage(folder).free
    if in_memory:
        known = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = min(free, int(known["MemAvailable"].split()[0]) * 1024 - SPARE)
    if free < size:
        raise RuntimeError(
            f"{folder}: {size // MB} MB are needed, {free // MB} free; try --megabytes or another folder"
        )


def told(row: records.Row) -> str:
    """A line on what was found."""
    case, seconds = row["case"], row["seconds"]["p50"]
    text = f"{case['recipe']}, {case['storage']}: {seconds:.3f} s, start-up {row['startup']['p50']:.3f} s, "
    text += f"floor {row['floor']['p50']:.3f} s, ratio {row['ratio']['p50']:.2f}, {row['rss_anon'] / MB:.0f} MB"
    if "mergekit" in row:
        rival = row["mergekit"]
        text += f"; mergekit {rival['seconds']['p50']:.1f} s, {rival['rss_anon'] / MB:.0f} MB"
    return text


if __name__ == "__main__":
    sys.exit(main())
