"""Reductions over all tensors of a model in one launch: their ranges, and the first value that is not finite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl

from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.kernels.triton.config import LaunchConfig
from sta_kernels.kernels.triton.leaves import fold_range, higher_of, lower_of
from sta_kernels.kernels.triton.primitives import pointer, positions, widen
from sta_kernels.kernels.triton.sources import read_importance, reduction_config, tabulate

_NOWHERE: tl.constexpr = tl.constexpr(0x7FFFFFFF)


def launch_ranges(
    device: torch.device,
    sources: Sequence[ImportanceSource],
    *,
    slots: Sequence[int] | None = None,
    resident: bool = False,
    config: LaunchConfig | None = None,
) -> torch.Tensor:
    """Least and greatest importance of many tensors, one launch per signature.

    Args:
        device: where the sources' addresses are.
        sources: contiguous operands.
        slots: row of the result that each source is folded into, for tensors that share a normaliser; its own if None.
        resident: ask for the operands to stay in the second-level cache, for a merge that follows (:func:`fits_cache`).
        config: of the launches; by signature and size if None.

    Returns:
        float32 [n, 2] on the device, n the number of slots; −0 is below +0; NaN in both columns where a tensor holds
        one; (inf, −inf) of nothing.

    Raises:
        ValueError: an operand missing, with strides, or of another size than its companion.
    """
    slots = range(len(sources)) if slots is None else slots
    empty = np.tile(np.array((np.inf, -np.inf), np.float32), (max(slots, default=-1) + 1, 1))
    launches, rows, (minmax,) = tabulate(device, sources, slots, _choice(config), empty)
    for launch in launches:
        _ranges_kernel[(len(launch.chunks),)](
            rows,
            launch.chunks,
            minmax,
            **launch.signature.constants(),
            EVICTION="evict_last" if resident else "",
            BLOCK=launch.config.block,
            CHUNK=launch.config.chunk,
            num_warps=launch.config.warps,
            enable_fp_fusion=False,
        )
    return minmax


def launch_first_nonfinite(
    device: torch.device, buffers: Sequence[Buffer], *, config: LaunchConfig | None = None
) -> torch.Tensor:
    """Where the first NaN or infinity of each buffer's float32 values stands, one launch per dtype and alignment.

    Args:
        device: where the buffers are.
        buffers: contiguous.
        config: of the launches; by dtype and size if None.

    Returns:
        int64 [n] on the device: flat index, or −1 where every value is finite.

    Raises:
        ValueError: a buffer with strides.
    """
    sources = [ImportanceSource("lp", buffer) for buffer in buffers]
    nowhere = np.full(len(buffers), -1, np.int64)
    launches, rows, (found,) = tabulate(device, sources, range(len(buffers)), _choice(config), nowhere)
    for launch in launches:
        _first_nonfinite_kernel[(len(launch.chunks),)](
            rows,
            launch.chunks,
            found,
            DTYPE=launch.signature.constants()["IMPORTANCE"],
            ALIGNED=launch.signature.aligned,
            BLOCK=launch.config.block,
            CHUNK=launch.config.chunk,
            num_warps=launch.config.warps,
            enable_fp_fusion=False,
        )
    return found


def fits_cache(device: torch.device, buffers: Sequence[Buffer]) -> bool:
    """Whether buffers take at most half of the device's second-level cache; the rest is for what passes through it.

    For a merge without a normaliser: the ranges with ``resident=True``, then the merge, which finds the importances
    there.
    """
    cache = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 0
    return 2 * sum(buffer.size * buffer.dtype.itemsize for buffer in buffers) <= cache


def _choice(config: LaunchConfig | None):
    return reduction_config if config is None else lambda signature, n_elements: config


@triton.jit
def _ranges_kernel(
    rows_ptr,  # int64 [S, 4]: elements, slot, importance, weight
    chunks_ptr,  # int32 [C, 2]: row, chunk within it
    minmax_ptr,  # float32 [slots, 2]
    MEASURE: tl.constexpr,
    IMPORTANCE: tl.constexpr,
    THETA: tl.constexpr,
    ALIGNED: tl.constexpr,
    EVICTION: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    row_ptr = rows_ptr + 4 * tl.load(chunks_ptr + 2 * program).to(tl.int64)
    first = tl.load(chunks_ptr + 2 * program + 1).to(tl.int64) * CHUNK
    count = tl.minimum(tl.load(row_ptr) - first, CHUNK).to(tl.int32)
    importance_ptr = pointer(tl.load(row_ptr + 2), IMPORTANCE, ALIGNED) + first
    theta_ptr = pointer(tl.load(row_ptr + 3), THETA, ALIGNED) + first
    # A pair of results per position of a block: no thread waits for another before the end.
    low = tl.full([BLOCK], float("inf"), tl.float32)
    high = tl.full([BLOCK], float("-inf"), tl.float32)
    whole = count // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        values = read_importance(importance_ptr, theta_ptr, positions(start, BLOCK), None, MEASURE, EVICTION)
        low = lower_of(low, values)
        high = higher_of(high, values)
    if whole < count:
        here = positions(whole, BLOCK)
        inside = here < count
        values = read_importance(importance_ptr, theta_ptr, here, inside, MEASURE, EVICTION)
        low = tl.where(inside, lower_of(low, values), low)
        high = tl.where(inside, higher_of(high, values), high)
    fold_range(minmax_ptr + 2 * tl.load(row_ptr + 1), low, high)


@triton.jit
def _first_nonfinite_kernel(
    rows_ptr,  # int64 [S, 4]: elements, row, address, 0
    chunks_ptr,  # int32 [C, 2]: row, chunk within it
    found_ptr,  # int64 [S]: first index so far; −1, the greatest of unsigned integers, where there is none
    DTYPE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    row = tl.load(chunks_ptr + 2 * program).to(tl.int64)
    first = tl.load(chunks_ptr + 2 * program + 1).to(tl.int64) * CHUNK
    count = tl.minimum(tl.load(rows_ptr + 4 * row) - first, CHUNK).to(tl.int32)
    values_ptr = pointer(tl.load(rows_ptr + 4 * row + 2), DTYPE, ALIGNED) + first
    firsts = tl.full([BLOCK], _NOWHERE, tl.int32)
    whole = count // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        here = positions(start, BLOCK)
        firsts = tl.where(_finite(tl.load(values_ptr + here)), firsts, tl.minimum(firsts, here))
    if whole < count:
        here = positions(whole, BLOCK)
        values = tl.load(values_ptr + here, mask=here < count, other=0.0)
        firsts = tl.where(_finite(values), firsts, tl.minimum(firsts, here))
    index = tl.min(firsts, 0)
    if index < _NOWHERE:
        unsigned_ptr = found_ptr.to(tl.pointer_type(tl.uint64), bitcast=True)
        tl.atomic_min(unsigned_ptr + row, (first + index).to(tl.uint64), sem="relaxed")


@triton.jit
def _finite(x):
    return tl.abs(widen(x)) < float("inf")
