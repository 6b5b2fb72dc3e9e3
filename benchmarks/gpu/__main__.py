"""Test, then time the kernels on this machine's GPU; rows and a picture go to ``benchmarks/results``.

    python -m benchmarks.gpu                                    # everything: the GPU tests, then every case
    python -m benchmarks.gpu --models ViT-B/16-like --tasks 6   # some
    python -m benchmarks.gpu --plot-only                        # the picture, from the rows that there are

Exit codes: 0; 1: a test or a check failed, and what depends on it was not timed; 2: there is no GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import records
from benchmarks.gpu import plot
from benchmarks.gpu.shapes import MODELS, fitting
from benchmarks.operands import FORMATS

ROOT = Path(__file__).parents[2]
TASKS = (2, 3, 4, 6, 8, 12, 16)
SHARE_OF_MEMORY = 0.6
"""Of the memory that is free, for operands and results; contenders need some too."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """One compilation for all lengths."""
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, dynamic=True)


def green() -> bool:
    """Whether the GPU tests pass."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--require-gpu",
        str(ROOT / "tests" / "gpu"),
    ]
    return subprocess.run(command, cwd=ROOT / "tests", check=False).returncode == 0


def measured(arguments: argparse.Namespace, device: torch.device) -> Iterator[list[records.Row]]:
    """Rows, contest by contest."""
    from benchmarks.gpu import merges, others
    from benchmarks.gpu.timing import contest, do_bench, environment

    common = environment(device)
    budget = int(torch.cuda.mem_get_info(device)[0] * SHARE_OF_MEMORY)
    for name in arguments.models:
        for formats in FORMATS:
            for n_tasks in arguments.tasks:
                weight, importance = FORMATS[formats]
                per_element = (2 + n_tasks) * weight.itemsize + n_tasks * importance.itemsize
                whole = MODELS[name]()
                sizes = fitting(whole, per_element, budget)
                model = merges.Model.random(sizes, formats, n_tasks, device)
                for given in (True, False):
                    case = {
                        "model": name,
                        "tensors": len(sizes),
                        "tensors_of_model": len(whole),
                        "elements": sum(sizes),
                        "models": n_tasks,
                        "weights": str(weight).removeprefix("torch."),
                        "importances": str(importance).removeprefix("torch."),
                        "normaliser": "given" if given else "computed",
                    }
                    contenders = merges.contenders(model, given=given, compiled=compiled)
                    yield contest("sta_merge", contenders, case, do_bench, common)
                del model
    for op, contenders, case in others.contests(device, arguments.elements, compiled):
        yield contest(op, contenders, case, do_bench, common)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description="Test and time the kernels on a GPU.")
    option = parser.add_argument
    option("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME", help=", ".join(MODELS))
    option("--tasks", type=int, nargs="+", default=TASKS, metavar="N", help="default: 2 3 4 6 8 12 16")
    option("--elements", type=int, default=64 << 20, help="of the other ops' tensors (default: 64 Mi)")
    option("--results", type=Path, default=records.RESULTS, metavar="DIR", help="default: benchmarks/results")
    option("--plot-only", action="store_true", help="measure nothing; draw the rows that there are")
    arguments = parser.parse_args(argv)
    if not arguments.plot_only:
        if not torch.cuda.is_available():
            print("there is no GPU to measure on", file=sys.stderr)
            return 2
        if not green():
            print("the GPU tests fail: nothing is timed", file=sys.stderr)
            return 1
        from benchmarks.summary import contest_table

        try:
            for rows in measured(arguments, torch.device("cuda", torch.cuda.current_device())):
                records.append(arguments.results, rows)
                print(contest_table(rows), flush=True)
        except AssertionError as error:
            print(f"not timed further: {error}", file=sys.stderr)
            return 1
    path = plot.draw(records.read(arguments.results), arguments.results)
    print(path or "no rows to draw")
    return 0


if __name__ == "__main__":
    sys.exit(main())
