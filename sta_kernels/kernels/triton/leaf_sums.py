"""Tier-B sums over all tensors of a model: leaves of 4,096 elements in one launch, then their fold, on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl

from sta_kernels.kernels.buffers import ImportanceSource
from sta_kernels.kernels.triton.config import ACCESS, WARP, LaunchConfig
from sta_kernels.kernels.triton.leaves import LANES, LEAF, fold_lanes, fold_range, higher_of, lower_of
from sta_kernels.kernels.triton.primitives import pointer
from sta_kernels.kernels.triton.sources import Signature, read_importance, tabulate
from sta_kernels.kernels.triton.tables import chunks, upload

_AT_ONCE = 8
"""Rows of lanes that a thread asks for before it waits."""
_NEIGHBOURS: tl.constexpr = tl.constexpr(8)
_FOLD = LaunchConfig(block=1024, chunk=1024, warps=2)


def leaf_config(signature: Signature, n_elements: int) -> LaunchConfig:
    """Launch of leaf sums: a chunk is some leaves, a block one row of 32 lanes of each of them.

    A thread holds as many neighbouring lanes of a leaf as one 128-bit access brings of the narrowest operand.
    """
    warps = 2
    block = warps * WARP * max(2, ACCESS // min(signature.itemsizes))
    return LaunchConfig(block, block // LANES.value * LEAF.value, warps)


def launch_leaf_sums(
    device: torch.device, sources: Sequence[ImportanceSource], *, config: LaunchConfig | None = None
) -> list[torch.Tensor]:
    """Tier-B sums of leaves of 4,096 importances of many tensors, one launch per signature.

    Args:
        device: where the sources' addresses are.
        sources: contiguous operands.
        config: of the launches; ``chunk`` is a power of two of leaves, and ``block`` follows. By signature if None.

    Returns:
        float64 [⌈size/4096⌉] on the device per source; views of one tensor.

    Raises:
        ValueError: an operand missing, with strides, or of another size than its companion.
    """
    return _launch(device, sources, False, config)[1]


def launch_ranges_and_leaf_sums(
    device: torch.device, sources: Sequence[ImportanceSource], *, config: LaunchConfig | None = None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Ranges, as ``launch_ranges`` gives them, and leaf sums of many tensors from one read.

    Args:
        device: where the sources' addresses are.
        sources: contiguous operands.
        config: as :func:`launch_leaf_sums`.

    Returns:
        float32 [n, 2], and float64 [⌈size/4096⌉] per source, on the device.

    Raises:
        ValueError: as :func:`launch_leaf_sums`.
    """
    return _launch(device, sources, True, config)


def launch_fold(
    device: torch.device, leaves: Sequence[torch.Tensor], *, config: LaunchConfig | None = None
) -> torch.Tensor:
    """Tier-B sums of leaf sums: adjacent pairs, level by level, an odd last one carried up.

    A launch goes up ten levels: tensors up to 4 M elements take one, up to 4 G two.

    Args:
        device: of the leaves.
        leaves: contiguous float64 tensors of one dimension.
        config: ``block`` and ``chunk``, equal powers of two, from 16 on, are the leaves that one program adds.

    Returns:
        float64 [n] on the device; 0 of nothing.
    """
    config = config or _FOLD
    result = torch.zeros(len(leaves), dtype=torch.float64, device=device)
    counts = np.array([len(leaf) for leaf in leaves], np.int64)
    addresses = np.array([leaf.data_ptr() for leaf in leaves], np.int64)
    if not counts.any():
        return result
    tables, levels = [], []
    while True:
        after = -(-counts // config.chunk)
        last = after.max() == 1
        levels.append(result if last else torch.empty(int(after.sum()), dtype=torch.float64, device=device))
        starts = np.arange(len(leaves)) if last else np.cumsum(after) - after
        targets = levels[-1].data_ptr() + 8 * starts
        tables += [np.stack([counts, addresses, targets], axis=1), chunks(counts.tolist(), config.chunk)]
        if last:
            break
        counts, addresses = after, targets
    uploaded = upload(device, *tables)
    for rows, table in zip(uploaded[0::2], uploaded[1::2], strict=True):
        _fold_kernel[(len(table),)](rows, table, BLOCK=config.block, num_warps=config.warps, enable_fp_fusion=False)
    return result


def _launch(
    device: torch.device, sources: Sequence[ImportanceSource], with_ranges: bool, config: LaunchConfig | None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    counts = [-(-source.size // LEAF.value) for source in sources]
    offsets = [int(stop) - count for stop, count in zip(np.cumsum(counts), counts, strict=True)]
    sums = torch.empty(sum(counts), dtype=torch.float64, device=device)
    empty = np.tile(np.array((np.inf, -np.inf), np.float32), (len(sources), 1))
    choose = leaf_config if config is None else lambda signature, n_elements: config
    launches, rows, (minmax,) = tabulate(device, sources, offsets, choose, empty)
    for launch in launches:
        _leaf_sums_kernel[(len(launch.chunks),)](
            rows,
            launch.chunks,
            minmax,
            sums,
            **launch.signature.constants(),
            RANGES=with_ranges,
            LEAVES=launch.config.chunk // LEAF.value,
            AT_ONCE=_AT_ONCE,
            num_warps=launch.config.warps,
            enable_fp_fusion=False,
        )
    return minmax, list(sums.split(counts)) if counts else []


@triton.jit
def _leaf_sums_kernel(
    rows_ptr,  # int64 [S, 4]: elements, first leaf in the result, importance, weight
    chunks_ptr,  # int32 [C, 2]: row, chunk within it
    minmax_ptr,  # float32 [S, 2]
    sums_ptr,  # float64 [leaves of all tensors]
    MEASURE: tl.constexpr,
    IMPORTANCE: tl.constexpr,
    THETA: tl.constexpr,
    ALIGNED: tl.constexpr,
    RANGES: tl.constexpr,
    LEAVES: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    row = tl.load(chunks_ptr + 2 * program).to(tl.int64)
    row_ptr = rows_ptr + 4 * row
    first_leaf = tl.load(chunks_ptr + 2 * program + 1).to(tl.int64) * LEAVES
    count = tl.minimum(tl.load(row_ptr) - first_leaf * LEAF, LEAVES * LEAF).to(tl.int32)
    sums_ptr += tl.load(row_ptr + 1) + first_leaf
    importance_ptr = pointer(tl.load(row_ptr + 2), IMPORTANCE, ALIGNED) + first_leaf * LEAF
    theta_ptr = pointer(tl.load(row_ptr + 3), THETA, ALIGNED) + first_leaf * LEAF
    minmax_ptr += 2 * row
    whole = count // LEAF
    if whole > 0:
        leaf = tl.arange(0, LEAVES)
        # One mask for all lanes of a leaf: accesses stay 128 bits wide.
        sums, low, high = _add_rows(
            importance_ptr,
            theta_ptr,
            leaf[:, None] * LEAF,
            (leaf < whole)[:, None],
            LEAF,
            MEASURE,
            RANGES,
            LEAVES,
            AT_ONCE,
        )
        tl.store(sums_ptr + leaf, fold_lanes(sums), mask=leaf < whole)
        if RANGES:
            fold_range(minmax_ptr, low, high)
    rest = count - whole * LEAF
    if rest > 0:
        nothing = tl.zeros([1, 1], tl.int32)
        sums, low, high = _add_rows(
            importance_ptr + whole * LEAF, theta_ptr + whole * LEAF, nothing, None, rest, MEASURE, RANGES, 1, AT_ONCE
        )
        tl.store(sums_ptr + whole + tl.arange(0, 1), fold_lanes(sums))
        if RANGES:
            fold_range(minmax_ptr, low, high)


@triton.jit
def _add_rows(
    importance_ptr,
    theta_ptr,
    starts,  # [LEAVES, 1], of the leaves
    exists,  # [LEAVES, 1], or None: one leaf, which ends somewhere
    end,  # of every leaf
    MEASURE: tl.constexpr,
    RANGES: tl.constexpr,
    LEAVES: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    """Float64 sums, minima and maxima of the 32 lanes of some leaves, each [LEAVES, 32]."""
    lane = tl.arange(0, LANES)[None, :]
    sums = tl.zeros([LEAVES, LANES], tl.float64)
    low = tl.full([LEAVES, LANES], float("inf"), tl.float32)
    high = tl.full([LEAVES, LANES], float("-inf"), tl.float32)
    for start in range(0, end, AT_ONCE * LANES):
        rows = ()
        for step in tl.static_range(AT_ONCE):
            column = start + step * LANES + lane
            mask = column < end if exists is None else tl.broadcast_to(exists, [LEAVES, LANES])
            # What is masked is +0, which changes no sum: one that starts at +0 is never −0.
            rows += (read_importance(importance_ptr, theta_ptr, starts + column, mask, MEASURE, ""),)
        for step in tl.static_range(AT_ONCE):
            sums += rows[step].to(tl.float64)
            if RANGES:
                lower, higher = lower_of(low, rows[step]), higher_of(high, rows[step])
                if exists is None:
                    inside = start + step * LANES + lane < end
                    lower, higher = tl.where(inside, lower, low), tl.where(inside, higher, high)
                low, high = lower, higher
    if RANGES:
        if exists is not None:
            low, high = tl.where(exists, low, float("inf")), tl.where(exists, high, float("-inf"))
    return sums, low, high


@triton.jit
def _fold_kernel(
    rows_ptr,  # int64 [S, 3]: leaves, their address, where to
    chunks_ptr,  # int32 [C, 2]: row, chunk within it
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    row_ptr = rows_ptr + 3 * tl.load(chunks_ptr + 2 * program).to(tl.int64)
    chunk = tl.load(chunks_ptr + 2 * program + 1).to(tl.int64)
    count = tl.load(row_ptr)
    leaves_ptr = tl.load(row_ptr + 1).to(tl.pointer_type(tl.float64))
    # Each position takes neighbours and adds them by itself, up three levels.
    here = chunk * BLOCK + _NEIGHBOURS * tl.arange(0, BLOCK // _NEIGHBOURS)
    level = _load_neighbours(leaves_ptr, here, count)
    sums = ((level[0] + level[1]) + (level[2] + level[3])) + ((level[4] + level[5]) + (level[6] + level[7]))
    for step in tl.static_range(32):
        if BLOCK // _NEIGHBOURS >> step > 1:
            left, right = tl.split(tl.reshape(sums, [BLOCK // _NEIGHBOURS >> (step + 1), 2]))
            sums = left + right
    result_ptr = tl.load(row_ptr + 2).to(tl.pointer_type(tl.float64))
    tl.store(result_ptr + chunk + tl.arange(0, 1), sums)


@triton.jit
def _load_neighbours(leaves_ptr, here, count):
    # Adding −0 changes nothing, not even −0: so an odd last one is carried up. A literal −0.0 would compile to +0.
    nothing = tl.full(here.shape, 0x8000000000000000, tl.uint64).to(tl.float64, bitcast=True)
    leaves = ()
    for step in tl.static_range(_NEIGHBOURS):
        leaves += (tl.load(leaves_ptr + here + step, mask=here + step < count, other=nothing),)
    return leaves
