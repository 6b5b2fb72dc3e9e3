"""How many elements are greater than a value, and how many equal it, leaf by leaf; many tensors in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl

from sta_kernels.kernels.buffers import ImportanceSource
from sta_kernels.kernels.triton.config import WARP, LaunchConfig, registers
from sta_kernels.kernels.triton.leaves import LEAF
from sta_kernels.kernels.triton.primitives import pointer, positions
from sta_kernels.kernels.triton.sources import Signature, read_importance, tabulate

_PER_THREAD = 8


def launch_count_equal(
    device: torch.device, sources: Sequence[ImportanceSource], values: Sequence[float]
) -> list[torch.Tensor]:
    """Count what is greater than a tensor's value and what equals it, one launch per signature.

    Args:
        device: where the sources' addresses are.
        sources: contiguous operands.
        values: one per source, rounded to float32.

    Returns:
        int32 [⌈size/4096⌉, 2] on the device per source: of each leaf, how many are greater, and how many equal.

    Raises:
        ValueError: an operand missing, with strides, or of another size than its companion.
    """
    leaves = [-(-source.size // LEAF.value) for source in sources]
    starts = [int(stop) - count for stop, count in zip(np.cumsum(leaves), leaves, strict=True)]
    counts = torch.empty((sum(leaves), 2), dtype=torch.int32, device=device)
    launches, rows, (values_there,) = tabulate(device, sources, starts, _config, np.array(values, np.float32))
    for launch in launches:
        _count_equal_kernel[(len(launch.chunks),)](
            rows,
            launch.chunks,
            values_there,
            counts,
            **launch.signature.constants(),
            BLOCK=launch.config.block,
            num_warps=launch.config.warps,
            enable_fp_fusion=False,
            **registers(64),
        )
    return list(counts.split(leaves)) if leaves else []


def _config(signature: Signature, n_elements: int) -> LaunchConfig:
    """A leaf per program."""
    warps = 4
    return LaunchConfig(_PER_THREAD * warps * WARP, LEAF.value, warps)


@triton.jit
def _count_equal_kernel(
    rows_ptr,  # int64 [S, 4]: elements, first leaf in the result, importance, weight
    chunks_ptr,  # int32 [C, 2]: row, leaf within it
    values_ptr,  # float32 [S]
    counts_ptr,  # int32 [leaves of all tensors, 2]
    MEASURE: tl.constexpr,
    IMPORTANCE: tl.constexpr,
    THETA: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    row = tl.load(chunks_ptr + 2 * program).to(tl.int64)
    leaf = tl.load(chunks_ptr + 2 * program + 1).to(tl.int64)
    row_ptr = rows_ptr + 4 * row
    count = tl.minimum(tl.load(row_ptr) - leaf * LEAF, LEAF).to(tl.int32)
    importance_ptr = pointer(tl.load(row_ptr + 2), IMPORTANCE, ALIGNED) + leaf * LEAF
    theta_ptr = pointer(tl.load(row_ptr + 3), THETA, ALIGNED) + leaf * LEAF
    value = tl.load(values_ptr + row)
    greater = tl.zeros([BLOCK], tl.int32)
    equal = tl.zeros([BLOCK], tl.int32)
    whole = count // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        found = read_importance(importance_ptr, theta_ptr, positions(start, BLOCK), None, MEASURE, "")
        greater += (found > value).to(tl.int32)
        equal += (found == value).to(tl.int32)
    if whole < count:
        here = positions(whole, BLOCK)
        inside = here < count
        found = read_importance(importance_ptr, theta_ptr, here, inside, MEASURE, "")
        greater += (inside & (found > value)).to(tl.int32)
        equal += (inside & (found == value)).to(tl.int32)
    counts_ptr += 2 * (tl.load(row_ptr + 1) + leaf)
    tl.store(counts_ptr, tl.sum(greater, 0))
    tl.store(counts_ptr + 1, tl.sum(equal, 0))
