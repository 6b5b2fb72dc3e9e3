"""Statistics of importance tensors: ranges, normalisers, exact order statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sta_kernels.kernels.backend import LEAF, Backend
from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.kernels.reference.environment import ieee_arithmetic
from sta_kernels.methods.sta import normaliser as normaliser_of
from sta_kernels.ops import _checks as check
from sta_kernels.ops import _schemas
from sta_kernels.ops._backends import host_backend, launching
from sta_kernels.ops._schemas import implement


def minmax(tensors: Sequence[Tensor]) -> Tensor:
    """Minimum and maximum of each of many tensors, in one call.

    Args:
        tensors: at least one; any shapes and strides, on one device; float32, bfloat16, float16 or float64.

    Returns:
        float32 [N, 2]: (minimum, maximum) per tensor; both NaN where it holds a NaN, (inf, −inf) where it is empty.

    Raises:
        TypeError: a dtype that no kernel reads (integer, complex, float8), a sparse tensor, or no tensor at all.
        ValueError: an empty list, or tensors on several devices.

    Numerics:
        Exact, with −0 below +0; a float64 element is rounded to float32 first, as every importance is on reading.
    """
    return _minmax(check.tensors("tensors", tensors))


def normaliser(tensors: Sequence[Tensor | Sequence[Tensor]], kind: str = "minmax") -> Tensor:
    """Shift and divisor of each task's importance: what :func:`sta_merge` takes as ``normaliser``.

    "minmax": ``(min I, max I − min I)``, eq. 13 of Selective Task Arithmetic (arXiv 2411.16139); "mean":
    ``(0, mean I)``.

    Args:
        tensors: at least one entry, one per task: a tensor, or a sequence of the tensors of a block, which share one
            normaliser. Any shapes and strides, on one device; float32, bfloat16, float16 or float64.
        kind: "minmax" or "mean".

    Returns:
        float32 [N, 2]: (shift, divisor) per entry. NaN where an entry holds a NaN. An empty entry has (inf, −inf) as
        minmax and (0, 0) as mean.

    Raises:
        TypeError: a dtype that no kernel reads (integer, complex, float8), a sparse tensor, or no tensor at all.
        ValueError: an empty list or block, tensors on several devices, or an unknown kind.

    Numerics:
        The range is one float32 subtraction. The mean is a float64 sum in a fixed order, so that the bits depend on no
        thread count (leaves of 4,096 elements of each flattened tensor, folded pairwise in the order of the tensors),
        divided by the number of elements and rounded to float32 once.
    """
    flat: list[Tensor] = []
    blocks: list[int] = []
    if isinstance(tensors, Tensor):
        raise TypeError("tensors: Tensor given; a list of tensors is needed")
    for index, entry in enumerate(tensors):
        members = [entry] if isinstance(entry, Tensor) else check.tensors(f"tensors[{index}]", entry)
        check.at_least_one(f"tensors[{index}]", members)
        flat += members
        blocks.append(len(members))
    return _normaliser(flat, blocks, kind)


def order_statistic(x: Tensor, k: int) -> Tensor:
    """Exact k-th smallest element of a tensor of any size.

    Args:
        x: at least one element; any shape and strides; float32, bfloat16, float16 or float64.
        k: rank, counted from 1 to the number of elements.

    Returns:
        A 0-dim tensor of ``x``'s dtype.

    Raises:
        TypeError: a dtype that no kernel reads (integer, complex, float8), a sparse tensor, or no tensor at all.
        ValueError: k out of range, or ``x`` empty.

    Numerics:
        Selection by digits, without a copy of ``x``: exact in ``x``'s own dtype, −0 before +0, NaN last.
    """
    return _order_statistic(check.tensor("x", x), k)


def ranges_of(
    backend: Backend, sources: Sequence[ImportanceSource], leaves: list[np.ndarray] | None = None
) -> np.ndarray:
    """float32 [N, 2], minimum and maximum of each importance as it is formed; its tier-B leaf sums on the way."""
    ranges = np.empty((len(sources), 2), np.float32)
    ranges[:] = (np.inf, -np.inf)
    backend.ranges(sources, ranges, leaves, threads=torch.get_num_threads())
    return ranges


def _stored(tensors: Sequence[Tensor]) -> list[ImportanceSource]:
    return [ImportanceSource("lp", Buffer.from_torch(tensor)) for tensor in tensors]


def _minmax_new(tensors: list[Tensor]) -> Tensor:
    out = _schemas.minmax(tensors)
    backend = host_backend(out.device)
    if backend is None:
        with launching(out.device) as launch:
            launch.minmax(tensors, out)
    else:
        out.numpy()[:] = ranges_of(backend, _stored(tensors))
    return out


@ieee_arithmetic()
def _normaliser_new(tensors: list[Tensor], blocks: list[int], kind: str) -> Tensor:
    out = _schemas.normaliser(tensors, blocks, kind)
    backend = host_backend(out.device)
    if backend is None:
        with launching(out.device) as launch:
            launch.normaliser(tensors, blocks, kind, out)
        return out
    leaves = [np.empty(-(-each.numel() // LEAF), np.float64) for each in tensors] if kind == "mean" else None
    ranges = ranges_of(backend, _stored(tensors), leaves)
    results: list[float | tuple[float, float]] = []
    start = 0
    for length in blocks:
        block = slice(start, start + length)
        if leaves is None:
            results.append(_joint_range(ranges[block]))
        else:
            results.append(_mean(backend, leaves[block], sum(each.numel() for each in tensors[block])))
        start += length
    out.numpy()[:] = normaliser_of(kind, results)
    return out


def _joint_range(ranges: np.ndarray) -> tuple[float, float]:
    """Range of a block from its tensors' ranges, in the kernels' order: −0 below +0, and a NaN sticks to both ends."""
    lowest, highest = ranges.T.tolist()
    if any(map(math.isnan, lowest)):
        return math.nan, math.nan

    def order(value: float) -> tuple[float, float]:
        return value, math.copysign(1.0, value)

    return min(lowest, key=order), max(highest, key=order)


def _mean(backend: Backend, leaves: list[np.ndarray], n_elements: int) -> float:
    """Tier-B sum over the count; 0 where there is nothing."""
    return backend.fold(np.concatenate(leaves)) / n_elements if n_elements else 0.0


@ieee_arithmetic()
def _order_statistic_new(x: Tensor, k: int) -> Tensor:
    out = _schemas.order_statistic(x, k)
    backend = host_backend(x.device)
    if backend is None:
        with launching(x.device) as launch:
            launch.order_statistic(x, k, out)
        return out
    return out.fill_(backend.order_statistic_exact(Buffer.from_torch(x), k, threads=torch.get_num_threads()))


implement("minmax", _minmax_new)
implement("normaliser", _normaliser_new)
implement("order_statistic", _order_statistic_new)
_minmax = torch.ops.sta_kernels.minmax.default
_normaliser = torch.ops.sta_kernels.normaliser.default
_order_statistic = torch.ops.sta_kernels.order_statistic.default
