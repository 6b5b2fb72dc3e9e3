"""Measure a few launches per op, number of tasks and dtypes on this machine's GPU, and write the best ones down.

    python -m sta_kernels.kernels.triton.tuning                      # the table goes where launches look for it
    python -m sta_kernels.kernels.triton.tuning --out table.json     # or elsewhere
    python -m sta_kernels.kernels.triton.tuning --tasks 4 8

Exit code 2: there is no GPU.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch
import triton
import triton.testing

from sta_kernels._version import __version__
from sta_kernels.kernels.buffers import Buffer, DType
from sta_kernels.kernels.triton import tuned
from sta_kernels.kernels.triton.config import LaunchConfig, heuristic
from sta_kernels.kernels.triton.sta_forget import ForgetSegment, launch_sta_forget
from sta_kernels.kernels.triton.sta_merge import MergeSegment, launch_sta_merge
from sta_kernels.kernels.triton.taylor import launch_taylor_accumulate
from sta_kernels.kernels.triton.weighted_sum import SumSegment, launch_weighted_sum

ELEMENTS = 1 << 26
TASKS = tuple(range(2, 17))
FORMATS = ((DType.F32, DType.F32), (DType.BF16, DType.F32), (DType.BF16, DType.BF16))
"""dtypes of weights and of importances."""

Run = Callable[[LaunchConfig], None]
Measure = Callable[[Callable[[], None]], float]

_TORCH = {DType.F32: torch.float32, DType.BF16: torch.bfloat16}


def candidates(dtypes: Sequence[DType]) -> Iterator[tuned.TunedLaunch]:
    """The heuristic's launch, then its neighbours; every access of each is 128 bits wide."""
    itemsizes = [dtype.itemsize for dtype in dtypes]
    yield heuristic(itemsizes)
    for warps in (2, 4, 8):
        for accesses in (1, 2):
            for blocks in (8, 32):
                launch = heuristic(itemsizes, accesses=accesses, warps=warps, blocks=blocks)
                if launch != heuristic(itemsizes):
                    yield launch


def workloads(device: torch.device, elements: int, tasks: Sequence[int]) -> Iterator[tuple[str, list[DType], Run]]:
    """Op, dtypes as launchers look them up, and a launch of it, for every op whose launch is looked up."""

    def fresh(dtype: DType) -> Buffer:
        """Normal magnitudes: what a merge meets, and on its fast path."""
        return Buffer.from_torch(torch.rand(elements, device=device).add_(0.5).to(_TORCH[dtype]))

    for weight, importance in FORMATS:
        most = max(tasks)
        base, out = fresh(weight), fresh(weight)
        models, scores = [fresh(weight) for _ in range(most)], [fresh(importance) for _ in range(most)]
        for n in tasks:
            segment = MergeSegment(base, tuple(models[:n]), tuple(scores[:n]), out)
            yield (
                "sta_merge",
                [buffer.dtype for buffer in segment.buffers],
                functools.partial(_merge, device, segment, torch.tensor([[[0.5, 1.0]] * n], device=device)),
            )
            if importance == weight:
                yield (
                    "weighted_sum",
                    [weight] * (n + 2),
                    functools.partial(_sum, device, SumSegment(base, tuple(models[:n]), out)),
                )
        forget = ForgetSegment(base, base, models[0], scores[0], out)
        yield (
            "sta_forget",
            [weight, weight, weight, importance, weight],
            functools.partial(_forget, device, forget, torch.ones(1, device=device)),
        )
        # A sum of float32 takes gradients of the model's dtype.
        yield (
            "taylor_accumulate",
            [importance, weight],
            functools.partial(_accumulate, device, scores[0], models[0]),
        )


def _merge(device: torch.device, segment: MergeSegment, normaliser: torch.Tensor, config: LaunchConfig) -> None:
    rank = 1 + (len(segment.models) - 1) * 7 // 10
    launch_sta_merge(device, [segment], k=rank, ties="drop", measure="lp", normaliser=normaliser, config=config)


def _sum(device: torch.device, segment: SumSegment, config: LaunchConfig) -> None:
    weights = [1.0] * len(segment.models)
    launch_weighted_sum(device, [segment], weights=weights, divisor=1.0, lambda_=0.3, config=config)


def _forget(device: torch.device, segment: ForgetSegment, thresholds: torch.Tensor, config: LaunchConfig) -> None:
    launch_sta_forget(device, [segment], thresholds=thresholds, measure="lp", weight=1.0, lambda_=1.0, config=config)


def _accumulate(device: torch.device, total: Buffer, grad: Buffer, config: LaunchConfig) -> None:
    launch_taylor_accumulate(device, [(total, grad)], config=config)


def tune(
    device: torch.device, elements: int, tasks: Sequence[int], measure: Measure, say: Callable[[str], None]
) -> dict[str, tuned.TunedLaunch]:
    """The fastest candidate of every workload; the device is the current one."""
    found: dict[str, tuned.TunedLaunch] = {}
    for op, dtypes, run in workloads(device, elements, tasks):
        times = {}
        for launch in candidates(dtypes):
            config = LaunchConfig(launch.block, launch.block * launch.blocks, launch.warps)
            times[launch] = measure(functools.partial(run, config))
        best = min(times, key=times.__getitem__)
        name = tuned.key(op, dtypes)
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
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("there is no GPU to measure launches on", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    name = tuned.device_name(device)
    path = arguments.out or tuned.path_of(name)

    def measure(run: Callable[[], None]) -> float:
        return triton.testing.do_bench(run, return_mode="median")

    launches = tune(device, arguments.elements, arguments.tasks, measure, print)
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
