"""How the time of a merge grows with bytes and models, and shrinks with threads.

    python -m benchmarks.disk.scaling                            # on tmpfs; 17 GB of it
    python -m benchmarks.disk.scaling --no-tmpfs --disk /var/tmp --gigabytes 1 3 10 20 --models 4 --rounds 3    # cold
    python -m benchmarks.disk.scaling --gigabytes 0.1 0.3 --models 2 4 --rounds 3 --results /tmp/rows    # a trial

What finds no room is left out, and said.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from benchmarks import records
from benchmarks.disk import bars, plot, session
from benchmarks.disk.recipes import RECIPES

SIZES = (0.1, 0.3, 1.0, 3.0, 10.0)
NUMBERS = (2, 4, 8, 16)
COMPARED = ("task_arithmetic", "sta", "dare_ties", "ties")
IN_AND_OUT = bars.MODELS + 2


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, record, print, draw."""
    parser = argparse.ArgumentParser("python -m benchmarks.disk.scaling", description="Time merges of many sizes.")
    option = parser.add_argument
    option("--recipes", nargs="+", choices=RECIPES, default=COMPARED, metavar="NAME", help=", ".join(RECIPES))
    option(
        "--gigabytes", type=float, nargs="*", default=SIZES, metavar="GB",
        help=f"checkpoints of {bars.MODELS} models, base and result together (default: {' '.join(map(str, SIZES))})",
    )  # fmt: skip
    option("--models", type=int, nargs="*", default=NUMBERS, metavar="N", help="default: 2 4 8 16")
    option("--megabytes", type=int, default=bars.MEGABYTES // 2, help="of a checkpoint, where models are many")
    session.add_options(parser, rounds=5)
    arguments = parser.parse_args(argv)
    try:
        for row in measured(arguments):
            records.append(arguments.results, [row])
            case = row["case"]
            print(f"{row['contender']}: {case}: {row['seconds']}, start-up {row['startup']['p50']}", flush=True)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    print(plot.draw(records.read(arguments.results), arguments.results) or "no rows to draw")
    return 0


def measured(arguments: argparse.Namespace) -> Iterator[records.Row]:
    """Rows: of every size, of every number of models, and on tmpfs of one thread against all; less what has no room."""
    common = {"op": bars.SCALING} | records.environment()
    for storage in session.storages(arguments):
        sizes = [("bytes", round(size * 1000 / IN_AND_OUT), bars.MODELS) for size in arguments.gigabytes]
        numbers = [("models", arguments.megabytes, n_models) for n_models in arguments.models]
        for series, megabytes, n_models in sizes + numbers:
            try:
                with session.bench(arguments, storage, megabytes, n_models) as bench:
                    for recipe in arguments.recipes:
                        yield common | {"contender": series} | bench.row(recipe)
                        if (series, n_models, storage) == ("models", bars.MODELS, "tmpfs"):
                            yield common | {"contender": "threads"} | bench.thread_row(recipe)
            except session.NoRoomError as error:
                print(f"left out: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
