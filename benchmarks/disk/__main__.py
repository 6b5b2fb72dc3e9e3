"""Merges from files to files: against the floor of their I/O, and against mergekit.

    python -m benchmarks.disk                                        # on tmpfs; 6 GB of it
    python -m benchmarks.disk --disk /var/tmp --cache 3000           # and on a disk, cold
    python -m benchmarks.disk --mergekit-python .venv-mergekit/bin/python
    python -m benchmarks.disk --megabytes 50 --recipes sta ties --rounds 3 --results /tmp/rows    # a trial

Exit codes: 0: every bar that was measured is reached; 1: one is not; 2: there is no room, or no compiler.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmarks import records
from benchmarks.disk import bars, session
from benchmarks.disk.recipes import RECIPES
from benchmarks.tables import provenance


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, record, print."""
    parser = argparse.ArgumentParser("python -m benchmarks.disk", description="Time merges against their I/O.")
    option = parser.add_argument
    option("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="NAME", help=", ".join(RECIPES))
    option("--megabytes", type=int, default=bars.MEGABYTES, help="size of a checkpoint (default: 534, 267 M elements)")
    option("--models", type=int, default=bars.MODELS, help="fine-tuned checkpoints (default: 4)")
    option("--mergekit-python", metavar="PROGRAM", help="Python that has mergekit 0.1.5; it runs on tmpfs alone")
    option("--mergekit-rounds", type=int, default=3, help="how many of the rounds mergekit runs in (default: 3)")
    session.add_options(parser, rounds=9)
    arguments = parser.parse_args(argv)
    try:
        rows = list(measured(arguments))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    case = {"megabytes": arguments.megabytes, "models": arguments.models, "threads": arguments.threads}
    case["options"] = arguments.options.split()
    print(bars.table(rows, **case), provenance(rows), sep="\n\n")
    return 0 if bars.reached(rows, **case) else 1


def measured(arguments: argparse.Namespace) -> Iterator[records.Row]:
    """Rows, each recorded as soon as it is there."""
    common = {"op": bars.OP, "contender": bars.CONTENDER} | records.environment()
    for storage in session.storages(arguments):
        with session.bench(arguments, storage, arguments.megabytes, arguments.models) as bench:
            if storage == "tmpfs":
                rivals = {"mergekit": arguments.mergekit_python, "mergekit_rounds": arguments.mergekit_rounds}
                bench = replace(bench, **rivals)
            for recipe in arguments.recipes:
                row = common | bench.row(recipe)
                records.append(arguments.results, [row])
                print(told(row), flush=True)
                yield row


def told(row: records.Row) -> str:
    """A line on what was found."""
    case, seconds = row["case"], row["seconds"]["p50"]
    text = f"{case['recipe']}, {case['storage']}: {seconds:.3f} s, start-up {row['startup']['p50']:.3f} s, "
    text += f"floor {row['floor']['p50']:.3f} s, ratio {row['ratio']['p50']:.2f}, {row['rss_anon'] / 1e6:.0f} MB"
    if "mergekit" in row:
        rival = row["mergekit"]
        text += f"; mergekit {rival['seconds']['p50']:.1f} s, {rival['rss_anon'] / 1e6:.0f} MB"
    return text


if __name__ == "__main__":
    sys.exit(main())
