"""Times contenders on a device, one after another, and makes rows of the common format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch
import triton
import triton.testing

from benchmarks import records
from benchmarks.harness import Contender, quantiles
from sta_kernels._version import __version__

Timer = Callable[[Callable[[], object]], Sequence[float]]
"""Seconds of each of many calls."""

COPY = "copy"
"""Contender that a share of the bandwidth refers to."""


def do_bench(run: Callable[[], object]) -> list[float]:
    """``triton.testing.do_bench``: events around each call, the second-level cache cleared between them."""
    return [milliseconds / 1e3 for milliseconds in triton.testing.do_bench(run, return_mode="all")]


def environment(device: torch.device) -> records.Row:
    """What every row of a run has in common."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "revision": records.revision(),
        "machine": {
            "processor": records.processor(),
            "gpu": properties.name,
            "architecture": getattr(properties, "gcnArchName", "") or f"sm_{properties.major}{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory": properties.total_memory,
        },
        "versions": {
            "sta_kernels": __version__,
            "torch": torch.__version__,
            "triton": triton.__version__,
            "runtime": torch.version.cuda or torch.version.hip,
        },
    }


def contest(
    op: str, contenders: Sequence[Contender], case: Mapping[str, Any], time: Timer, common: records.Row
) -> list[records.Row]:
    """Rows of an op, which comes first, and of what it is compared with, in ``gpu-<op>.jsonl``'s format.

    ``speedup`` and ``share`` are by the medians: the calls of two contenders do not alternate.
    """
    times = {each.name: np.array(time(each.run)) for each in contenders}
    own = contenders[0]
    rows = []
    for each in contenders:
        seconds = times[each.name]
        row: records.Row = {"op": f"gpu-{op}", "contender": each.name, "case": dict(case), "rounds": len(seconds)}
        row["seconds"] = quantiles(seconds)
        slower = float(np.median(seconds) / np.median(times[own.name]))
        row["speedup"] = {"medians": records.rounded(slower)}
        row["bytes"] = each.n_bytes
        row["bytes_per_second"] = records.rounded(each.n_bytes / float(np.median(seconds)))
        row["share"] = {"medians": records.rounded(slower * own.n_bytes / each.n_bytes)}
        rows.append(row | common)
    return rows


def copy(device: torch.device, n_bytes: int) -> Contender:
    """A copy within the device that moves about as many bytes, at most 2 GiB."""
    source = torch.empty(max(1, min(n_bytes, 2 << 30) // 2), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Contender(COPY, lambda: target.copy_(source), 2 * source.nbytes)
