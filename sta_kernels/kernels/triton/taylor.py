"""Taylor importance (eq. 10–12, 21, 22): accumulate |g| in place, then one pass that finishes, measures and sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.triton.config import ACCESS, WARP, LaunchConfig, elementwise_config
from sta_kernels.kernels.triton.leaves import LANES, LEAF, fold_lanes, fold_range, higher_of, lower_of
from sta_kernels.kernels.triton.primitives import narrow, pointer, positions, widen
from sta_kernels.kernels.triton.tables import aligned, check_contiguous, chunks, language_dtype, rows, upload

_LEAF = LEAF.value
_ROWS: tl.constexpr = tl.constexpr(LEAF.value // LANES.value)


@dataclass(frozen=True, slots=True)
class FinishItem:
    """One parameter: the sum of its |g|, its weights, and where the importance goes (which may be ``total``)."""

    total: Buffer
    param: Buffer
    out: Buffer


def launch_taylor_accumulate(
    device: torch.device, pairs: Sequence[tuple[Buffer, Buffer]], *, config: LaunchConfig | None = None
) -> None:
    """Add the magnitude of gradients in place, ``S = RN(S + |g|)`` (the sum of eq. 12), of many parameters at once.

    Args:
        device: that holds the buffers.
        pairs: (S, g) per parameter, contiguous, of equal size, any of the dtypes that kernels read. No buffer may
            share memory with another parameter's S.
        config: of the launch; None chooses.
    """
    groups: dict[tuple[Any, ...], list[tuple[int, int, Sequence[Buffer]]]] = {}
    for index, pair in enumerate(pairs):
        check_contiguous(pair)
        groups.setdefault((*(buffer.dtype for buffer in pair), aligned(pair)), []).append((pair[0].size, index, pair))
    for (total, grad, is_aligned), segments in groups.items():
        sizes = [size for size, _, _ in segments]
        if not any(sizes):
            continue
        launch = config or elementwise_config(
            (total.itemsize, grad.itemsize), sum(sizes), device=device, op="taylor_accumulate", dtypes=(total, grad)
        )
        table = chunks(sizes, launch.chunk)
        rows_there, chunks_there = upload(device, rows(segments), table)
        _accumulate_kernel[(len(table),)](
            rows_there,
            chunks_there,
            TOTAL=language_dtype(total),
            GRAD=language_dtype(grad),
            ALIGNED=is_aligned,
            BLOCK=launch.block,
            CHUNK=launch.chunk,
            num_warps=launch.warps,
            enable_fp_fusion=False,
        )


def launch_taylor_finish(
    device: torch.device, items: Sequence[FinishItem], *, measure: str, config: LaunchConfig | None = None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Importance of many parameters from their sums, with range and tier-B leaf sums from the same read.

    ``lp``: ``RN(|θ|·S)`` (eq. 12); ``lp_amp``: ``RN(that · RN(θ·θ))`` (eq. 22); ``amp``: ``RN(θ·θ)`` (eq. 21), which
    does not read S.

    Args:
        device: that holds the buffers.
        items: contiguous buffers of equal size each, any of the dtypes that kernels read.
        measure: "lp", "amp" or "lp_amp".
        config: of the launch, with chunks of whole leaves; None chooses.

    Returns:
        minmax: float32 [n, 2], of the values as written: −0 below +0, both NaN where a value is one, (inf, −inf)
            where there is none.
        leaves: float64 [⌈size/4096⌉] per item, leaf sums of the values as written.
    """
    groups: dict[tuple[Any, ...], list[tuple[int, int, Sequence[Buffer]]]] = {}
    starts = np.zeros(len(items) + 1, np.int64)
    for index, item in enumerate(items):
        buffers = (item.total, item.param, item.out)
        check_contiguous(buffers)
        read = buffers if measure != "amp" else buffers[1:]
        signature = (*(buffer.dtype for buffer in buffers), aligned(read))
        groups.setdefault(signature, []).append((item.out.size, index, buffers))
        starts[index + 1] = starts[index] + -(-item.out.size // _LEAF)
    empty = np.tile(np.array((np.inf, -np.inf), np.float32), (len(items), 1))
    minmax, starts_there = upload(device, empty, starts)
    leaves = torch.empty(int(starts[-1]), dtype=torch.float64, device=device)
    for (total, param, out, is_aligned), segments in groups.items():
        sizes = [size for size, _, _ in segments]
        if not any(sizes):
            continue
        launch = config or _finish_config([dtype.itemsize for dtype in (total, param, out)])
        table = chunks(sizes, launch.chunk)
        n_leaves = launch.chunk // _LEAF
        rows_there, chunks_there = upload(device, rows(segments), table)
        _finish_kernel[(len(table),)](
            rows_there,
            chunks_there,
            starts_there,
            minmax,
            leaves,
            MEASURE=measure,
            TOTAL=language_dtype(total),
            PARAM=language_dtype(param),
            OUT=language_dtype(out),
            ALIGNED=is_aligned,
            LEAVES=n_leaves,
            UNROLL=launch.block // (n_leaves * LANES.value),
            num_warps=launch.warps,
            enable_fp_fusion=False,
        )
    return minmax, [leaves[begin:end] for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]


def _finish_config(itemsizes: Sequence[int]) -> LaunchConfig:
    """As many leaves per program as give each thread 16 bytes of the narrowest operand, and four rows at a time."""
    warps = 2
    tile = ACCESS // min(itemsizes) * warps * WARP
    return LaunchConfig(block=4 * tile, chunk=tile // LANES.value * _LEAF, warps=warps)


@triton.jit
def _accumulate_kernel(
    rows_ptr,  # int64 [R, 4]: elements, index, total, grad
    chunks_ptr,  # int32 [C, 2]: row, chunk within it
    TOTAL: tl.constexpr,
    GRAD: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    row_ptr = rows_ptr + 4 * tl.load(chunks_ptr + 2 * program).to(tl.int64)
    first = tl.load(chunks_ptr + 2 * program + 1).to(tl.int64) * CHUNK
    count = tl.minimum(tl.load(row_ptr) - first, CHUNK).to(tl.int32)
    total_ptr = pointer(tl.load(row_ptr + 2), TOTAL, ALIGNED) + first
    grad_ptr = pointer(tl.load(row_ptr + 3), GRAD, ALIGNED) + first
    done = count // BLOCK * BLOCK
    for start in range(0, done, BLOCK):
        here = positions(start, BLOCK)
        total = widen(tl.load(total_ptr + here)) + tl.abs(widen(tl.load(grad_ptr + here)))
        tl.store(total_ptr + here, narrow(total, TOTAL))
    if done < count:
        here = positions(done, BLOCK)
        inside = here < count
        grad = widen(tl.load(grad_ptr + here, mask=inside, other=0.0))
        total = widen(tl.load(total_ptr + here, mask=inside, other=0.0)) + tl.abs(grad)
        tl.store(total_ptr + here, narrow(total, TOTAL), mask=inside)


@triton.jit
def _load(total_ptr, param_ptr, here, inside, MEASURE: tl.constexpr):
    """(θ, S) as float32; θ twice where the measure reads no S."""
    theta = widen(tl.load(param_ptr + here, mask=inside, other=0.0))
    if MEASURE == "amp":
        return theta, theta
    else:
        return theta, widen(tl.load(total_ptr + here, mask=inside, other=0.0))


@triton.jit
def _write(out_ptr, here, inside, theta, total, MEASURE: tl.constexpr, OUT: tl.constexpr):
    """Store the importance, and return it as stored."""
    if MEASURE == "amp":
        value = theta * theta
    elif MEASURE == "lp_amp":
        value = (tl.abs(theta) * total) * (theta * theta)
    else:
        value = tl.abs(theta) * total
    stored = narrow(value, OUT)
    tl.store(out_ptr + here, stored, mask=inside)
    return widen(stored)


@triton.jit
def _finish_kernel(
    rows_ptr,  # int64 [R, 5]: elements, index, total, param, out
    chunks_ptr,  # int32 [C, 2]: row, chunk within it
    starts_ptr,  # int64 [n + 1]: the first leaf of each item
    minmax_ptr,  # float32 [n, 2]
    leaves_ptr,  # float64 [leaves of all items]
    MEASURE: tl.constexpr,
    TOTAL: tl.constexpr,
    PARAM: tl.constexpr,
    OUT: tl.constexpr,
    ALIGNED: tl.constexpr,
    LEAVES: tl.constexpr,
    UNROLL: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    row_ptr = rows_ptr + 5 * tl.load(chunks_ptr + 2 * program).to(tl.int64)
    chunk = tl.load(chunks_ptr + 2 * program + 1).to(tl.int64)
    index = tl.load(row_ptr + 1)
    first = chunk * (LEAVES * LEAF)
    count = tl.minimum(tl.load(row_ptr) - first, LEAVES * LEAF).to(tl.int32)
    total_ptr = pointer(tl.load(row_ptr + 2), TOTAL, ALIGNED) + first
    param_ptr = pointer(tl.load(row_ptr + 3), PARAM, ALIGNED) + first
    out_ptr = pointer(tl.load(row_ptr + 4), OUT, ALIGNED) + first
    leaf = tl.arange(0, LEAVES)
    lane = tl.arange(0, LANES)
    tile = leaf[:, None] * LEAF + lane[None, :]  # [LEAVES, LANES]
    sums = tl.zeros([LEAVES, LANES], tl.float64)
    low = tl.full([LEAVES, LANES], float("inf"), tl.float32)
    high = tl.full([LEAVES, LANES], float("-inf"), tl.float32)
    # A predicate that is the same for a whole row keeps 128-bit accesses; the last row, where it is cut, comes after.
    n_rows = tl.minimum(count // LANES, _ROWS)
    for row in range(0, n_rows, UNROLL):
        thetas = ()
        totals = ()
        for step in tl.static_range(UNROLL):
            whole = tl.broadcast_to((leaf * LEAF + (row + step + 1) * LANES <= count)[:, None], [LEAVES, LANES])
            loaded = _load(total_ptr, param_ptr, tile + (row + step) * LANES, whole, MEASURE)
            thetas += (loaded[0],)
            totals += (loaded[1],)
        for step in tl.static_range(UNROLL):
            whole = tl.broadcast_to((leaf * LEAF + (row + step + 1) * LANES <= count)[:, None], [LEAVES, LANES])
            here = tile + (row + step) * LANES
            value = _write(out_ptr, here, whole, thetas[step], totals[step], MEASURE, OUT)
            sums += value.to(tl.float64)  # +0 where not inside
            low = tl.where(whole, lower_of(low, value), low)
            high = tl.where(whole, higher_of(high, value), high)
    if count % LANES != 0:
        here = tile + count % LEAF // LANES * LANES
        inside = (leaf[:, None] == count // LEAF) & (here < count)
        theta, total = _load(total_ptr, param_ptr, here, inside, MEASURE)
        value = _write(out_ptr, here, inside, theta, total, MEASURE, OUT)
        sums += value.to(tl.float64)
        low = tl.where(inside, lower_of(low, value), low)
        high = tl.where(inside, higher_of(high, value), high)
    leaves_ptr += tl.load(starts_ptr + index) + chunk * LEAVES
    tl.store(leaves_ptr + leaf, fold_lanes(sums), mask=leaf * LEAF < count)
    fold_range(minmax_ptr + 2 * index, low, high)
