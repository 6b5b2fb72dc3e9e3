"""Measure a few launches of every kernel and dtypes on this machine's GPU, and write the best ones down.

    python -m sta_kernels.kernels.triton.tuning                      # the table goes where launches look for it
    python -m sta_kernels.kernels.triton.tuning --out table.json     # or elsewhere
    python -m sta_kernels.kernels.triton.tuning --tasks 4 8 --measures lp amp lp_amp

Exit code 2: there is no GPU.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
import triton.testing

from sta_kernels._version import __version__
from sta_kernels.kernels.buffers import Buffer, DType
from sta_kernels.kernels.triton import tuned
from sta_kernels.kernels.triton.config import LaunchConfig, heuristic
from sta_kernels.kernels.triton.sta_forget import ForgetSegment, launch_sta_forget
from sta_kernels.kernels.triton.sta_merge import MergeSegment, launch_sta_merge
from sta_kernels.kernels.triton.sta_merge_constants import merge_itemsizes
from sta_kernels.kernels.triton.taylor import launch_taylor_accumulate
from sta_kernels.kernels.triton.weighted_sum import SumSegment, launch_weighted_sum

ELEMENTS = 1 << 26
TASKS = tuple(range(2, 17))
FORMATS = ((DType.F32, DType.F32), (DType.BF16, DType.F32), (DType.BF16, DType.BF16))
"""dtypes of weights and of importances."""

MEASURES = ("lp", "amp", "lp_amp")

Run = Callable[[LaunchConfig], None]
Measure = Callable[[Callable[[], None]], float]

_TORCH = {DType.F32: torch.float32, DType.BF16: torch.bfloat16}


def candidates(itemsizes: Sequence[int]) -> Iterator[tuned.TunedLaunch]:
    """The heuristic's launch for elements of these sizes, then its neighbours; accesses of each are as wide."""
    yield heuristic(itemsizes)
    for warps in (2, 4, 8):
        for accesses in (1, 2):
            for blocks in (8, 32):
                launch = heuristic(itemsizes, accesses=accesses, warps=warps, blocks=blocks)
                if launch != heuristic(itemsizes):
                    yield launch


class Workload(NamedTuple):
    """One launch, named as launchers look it up."""

    op: str
    variant: tuple[Any, ...]
    dtypes: list[DType]
    run: Run

    @property
    def itemsizes(self) -> list[int]:
        """Sizes of elements by which the heuristic chooses."""
        if self.op == "sta_merge":
            n_tasks, measure = self.variant
            return merge_itemsizes(self.dtypes, n_tasks, measure)
        return [dtype.itemsize for dtype in self.dtypes]


def workloads(
    device: torch.device, elements: int, tasks: Sequence[int], measures: Sequence[str] = MEASURES[:1]
) -> Iterator[Workload]:
    """Every op whose launch is looked up."""

    def fresh(dtype: DType) -> Buffer:
        """Normal magnitudes: what a merge meets, and on its fast path."""
        return Buffer.from_torch(torch.rand(elements, device=device).add_(0.5).to(_TORCH[dtype]))

    for weight, importance in FORMATS:
        most = max(tasks)
        base, target, out = fresh(weight), fresh(weight), fresh(weight)
        models, scores = [fresh(weight) for _ in range(most)], [fresh(importance) for _ in range(most)]
        # What a measure does not read makes no operand, and its dtype no difference.
        read = [measure for measure in measures if measure != "amp" or importance == weight]
        for n, measure in itertools.product(tasks, read):
            segment = MergeSegment(base, tuple(models[:n]), () if measure == "amp" else tuple(scores[:n]), out)
            normaliser = torch.tensor([[[0.125, 1.0]] * n], device=device)
            yield Workload(
                "sta_merge",
                (n, measure),
                [buffer.dtype for buffer in segment.buffers],
                functools.partial(_merge, device, segment, measure, normaliser),
            )
        if importance == weight:
            for n, kind in itertools.product(tasks, ("based", "baseless")):
                total = SumSegment(base if kind == "based" else None, tuple(models[:n]), out)
                run = functools.partial(_sum, device, total)
                yield Workload("weighted_sum", (n, kind), [weight] * (n + 2), run)
        for measure, kind in itertools.product(read, ("base", "merged")):
            score = None if measure == "amp" else scores[0]
            forget = ForgetSegment(base if kind == "base" else target, base, models[0], score, out)
            dtypes = [weight, weight, weight, *([] if score is None else [importance]), weight]
            run = functools.partial(_forget, device, forget, measure, torch.ones(1, device=device))
            yield Workload("sta_forget", (measure, kind), dtypes, run)
        # A sum of float32 takes gradients of the model's dtype.
        run = functools.partial(_accumulate, device, scores[0], models[0])
        yield Workload("taylor_accumulate", (), [importance, weight], run)


def _merge(
    device: torch.device, segment: MergeSegment, measure: str, normaliser: torch.Tensor, config: LaunchConfig
) -> None:
    rank = 1 + (len(segment.models) - 1) * 7 // 10
    launch_sta_merge(device, [segment], k=rank, ties="drop", measure=measure, normaliser=normaliser, config=config)


def _sum(device: torch.device, segment: SumSegment, config: LaunchConfig) -> None:
    weights = [1.0] * len(segment.models)
    launch_weighted_sum(device, [segment], weights=weights, divisor=1.0, lambda_=0.3, config=config)


def _forget(
    device: torch.device, segment: ForgetSegment, measure: str, thresholds: torch.Tensor, config: LaunchConfig
) -> None:
    launch_sta_forget(device, [segment], thresholds=thresholds, measure=measure, weight=1.0, lambda_=1.0, config=config)


def _accumulate(device: torch.device, total: Buffer, grad: Buffer, config: LaunchConfig) -> None:
    launch_taylor_accumulate(device, [(total, grad)], config=config)


def tune(
    device: torch.device,
    elements: int,
    tasks: Sequence[int],
    measures: Sequence[str],
    time: Measure,
    say: Callable[[str], None],
) -> dict[str, tuned.TunedLaunch]:
    """The fastest candidate of every workload; the device is the current one."""
    found: dict[str, tuned.TunedLaunch] = {}
    for workload in workloads(device, elements, tasks, measures):
        times = {}
        for launch in candidates(workload.itemsizes):
            config = LaunchConfig(launch.block, launch.block * launch.blocks, launch.warps)
            times[launch] = time(functools.partial(workload.run, config))
        best = min(times, key=times.__getitem__)
        name = tuned.key(workload.op, workload.dtypes, *workload.variant)
        found[name] = best
        heuristics = next(iter(times.values()))
        say(f"{name}: {best}, {heuristics / times[best]:.3f} times as fast as the heuristic's launch")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Write the table."""
    parser = argparse.ArgumentParser(description="Write a table of launches for this machine's GPU.")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: where launches look for it")
    parser.add_argument("--elements", type=int, default=ELEMENTS, help="per tensor (default: 64 Mi)")
    parser.add_argument("--tasks", type=int, nargs="+", default=TASKS, metavar="N", help="default: 2 to 16")
    parser.add_argument(
        "--measures", nargs="+", choices=MEASURES, default=MEASURES[:1], help="default: lp; others keep the heuristic"
    )
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("there is no GPU to measure launches on", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    name = tuned.device_name(device)
    path = arguments.out or tuned.path_of(name)

    def time(run: Callable[[], None]) -> float:
        return triton.testing.do_bench(run, return_mode="median")

    launches = tune(device, arguments.elements, arguments.tasks, arguments.measures, time, print)
    about = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"sta_kernels": __version__, "torch": torch.__version__, "triton": triton.__version__},
        "elements": arguments.elements,
    }
    tuned.save(path, name, launches, about)
    print(f"{path}: {len(launches)} launches for {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
