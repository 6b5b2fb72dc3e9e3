"""Random gates that favour what is great within its row: rows are sorted by PyTorch, what is kept is drawn here."""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl

from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.reference.rank_gate import thresholds_exact
from sta_kernels.kernels.triton.config import LaunchConfig, elementwise_config
from sta_kernels.kernels.triton.formulas.philox import drawn_together, draws
from sta_kernels.kernels.triton.packing import tensor_of
from sta_kernels.kernels.triton.primitives import pointer, positions
from sta_kernels.kernels.triton.tables import ALIGNMENT, signed, upload

_MAGNITUDE = 0x7FFFFFFF
_INFINITY = 0x7F800000


def launch_thresholds(
    device: torch.device, base: Buffer, model: Buffer, *, row: int, chances: tuple[int, int]
) -> torch.Tensor:
    """What the draw of each entry must be below, by its rank within its row. Asynchronous.

    Entries are ranked by ``|τ|``, NaN like NaN and above infinity; of equal ones the first ranks highest.

    Args:
        device: that holds the buffers.
        base: whole rows.
        model: likewise.
        row: entries of a row.
        chances: of the least and of the greatest entry, of 2³².

    Returns:
        int64 [rows, row] on the device, from 0 to 2³².
    """
    rising = thresholds_exact(np.arange(row), row, chances).astype(np.int64)
    (falling,) = upload(device, rising[::-1])
    magnitude = (tensor_of(model).float() - tensor_of(base).float()).view(torch.int32).bitwise_and_(_MAGNITUDE)
    magnitude.masked_fill_(magnitude > _INFINITY, _MAGNITUDE)
    order = torch.sort(magnitude.reshape(-1, row).neg_(), dim=1, stable=True).indices
    return torch.empty_like(order).scatter_(1, order, falling.expand_as(order))


def launch_gates(
    device: torch.device,
    thresholds: int,
    out: Buffer,
    *,
    scaled: bool,
    seed: int,
    tensor: int,
    task: int,
    offset: int,
    config: LaunchConfig | None = None,
) -> None:
    """1, or 2³² over the threshold, where the draw of an entry is below its threshold; 0 elsewhere. Asynchronous.

    Args:
        device: that holds the buffers.
        thresholds: address of as many 64-bit integers.
        out: contiguous, float32.
        scaled: divide by the chance.
        seed: of the draws.
        tensor: hash of the tensor's name.
        task: number of the task.
        offset: index of the first element in its tensor.
        config: of the launch; None chooses.
    """
    config = config or elementwise_config([out.dtype.itemsize], out.size)
    numbers = (out.size, thresholds, out.address, offset, seed, tensor, task)
    (there,) = upload(device, np.array([signed(number) for number in numbers], np.int64))
    _gates_kernel[(triton.cdiv(out.size, config.chunk),)](
        there,
        SCALED=scaled,
        TOGETHER=drawn_together(offset, config.per_thread),
        ALIGNED=thresholds % ALIGNMENT == 0 and out.address % ALIGNMENT == 0,
        BLOCK=config.block,
        CHUNK=config.chunk,
        num_warps=config.warps,
        enable_fp_fusion=False,
    )


@triton.jit
def _gates_kernel(
    numbers_ptr,  # int64 [7]: elements, thresholds, result, index of the first element, seed, tensor, task
    SCALED: tl.constexpr,
    TOGETHER: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * CHUNK
    count = tl.minimum(tl.load(numbers_ptr) - first, CHUNK).to(tl.int32)
    thresholds_ptr = pointer(tl.load(numbers_ptr + 1), tl.int64, ALIGNED) + first
    out_ptr = pointer(tl.load(numbers_ptr + 2), tl.float32, ALIGNED) + first
    origin = tl.load(numbers_ptr + 3) + first
    seed, tensor, task = tl.load(numbers_ptr + 4), tl.load(numbers_ptr + 5), tl.load(numbers_ptr + 6)
    whole = count // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        here = positions(start, BLOCK)
        drawn = draws(seed, tensor, task, (origin, start, here, TOGETHER))
        tl.store(out_ptr + here, _gate(tl.load(thresholds_ptr + here), drawn, SCALED))
    if whole < count:
        here = positions(whole, BLOCK)
        inside = here < count
        drawn = draws(seed, tensor, task, (origin, whole, here, TOGETHER))
        threshold = tl.load(thresholds_ptr + here, mask=inside, other=0)
        tl.store(out_ptr + here, _gate(threshold, drawn, SCALED), mask=inside)


@triton.jit
def _gate(threshold, drawn, SCALED: tl.constexpr):
    value = tl.full(drawn.shape, 1.0, tl.float32)
    if SCALED:
        value = tl.div_rn(tl.full(drawn.shape, 4294967296.0, tl.float32), threshold.to(tl.float32))
    return tl.where(drawn.to(tl.int64) < threshold, value, 0.0)
