"""Random gates that favour what is great within its row: rows are sorted by PyTorch, chances drawn here."""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl

from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.triton.config import WARP, LaunchConfig
from sta_kernels.kernels.triton.formulas.philox import BLOCK_OF_DRAWS, draws
from sta_kernels.kernels.triton.packing import tensor_of
from sta_kernels.kernels.triton.primitives import positions
from sta_kernels.kernels.triton.tables import signed, upload

_MAGNITUDE = 0x7FFFFFFF
_INFINITY = 0x7F800000
_CONFIG = LaunchConfig(block=4 * 4 * WARP, chunk=4 * 4 * WARP, warps=4)


def launch_rank_gate(
    device: torch.device,
    base: Buffer,
    model: Buffer,
    out: Buffer,
    *,
    row: int,
    chances: tuple[int, int],
    scaled: bool,
    seed: int,
    tensor: int,
    task: int,
    offset: int,
    config: LaunchConfig = _CONFIG,
) -> None:
    """Gates of some rows of one task vector, as ``reference.rank_gate`` has them. Asynchronous.

    Args:
        device: that holds the buffers.
        base: contiguous, whole rows.
        model: likewise.
        out: likewise, float32.
        row: entries of a row.
        chances: of the least and of the greatest entry, of 2³².
        scaled: 2³² over the chance in place of 1.
        seed: of the draws.
        tensor: hash of the tensor's name.
        task: number of the task.
        offset: index of the first element in its tensor.
        config: of the launch; ``block`` alone counts.
    """
    low, high = chances if row > 1 else (sum(chances) // 2,) * 2
    ranks = _ranks((tensor_of(model).float() - tensor_of(base).float()).reshape(-1, row))
    drawn_by = (seed, tensor, task, offset, low, high - low, max(1, row - 1))
    (numbers,) = upload(device, np.array([signed(number) for number in drawn_by], np.int64))
    _rank_gate_kernel[(triton.cdiv(out.size, config.block),)](
        ranks,
        tensor_of(out),
        numbers,
        out.size,
        BY_FOURS=offset % BLOCK_OF_DRAWS == 0,
        SCALED=scaled,
        BLOCK=config.block,
        num_warps=config.warps,
        enable_fp_fusion=False,
    )


def _ranks(tau: torch.Tensor) -> torch.Tensor:
    """Rank by magnitude within the row, from 0; of equal ones, the lowest index ranks highest; int64 as float32 [R, n].

    NaN is equal to NaN, and greater than infinity.
    """
    magnitude = tau.view(torch.int32).bitwise_and_(_MAGNITUDE)
    magnitude.masked_fill_(magnitude > _INFINITY, _MAGNITUDE)
    falling = torch.sort(magnitude.neg_(), dim=1, stable=True).indices
    places = torch.arange(tau.shape[1] - 1, -1, -1, device=tau.device).expand_as(falling)
    return torch.empty_like(falling).scatter_(1, falling, places)


@triton.jit(do_not_specialize=["n_elements"])
def _rank_gate_kernel(
    ranks_ptr,  # int64 [n]
    out_ptr,  # float32 [n]
    numbers_ptr,  # int64 [7]: seed, tensor, task, index of the first element, least chance, span, greatest rank
    n_elements,
    BY_FOURS: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    here = positions(0, BLOCK)
    inside = first + here < n_elements
    rank = tl.load(ranks_ptr + first + here, mask=inside, other=0).to(tl.uint64)
    span, most = tl.load(numbers_ptr + 5).to(tl.uint64), tl.load(numbers_ptr + 6).to(tl.uint64)
    threshold = tl.load(numbers_ptr + 4).to(tl.uint64) + span * rank // most
    seed, tensor, task = tl.load(numbers_ptr), tl.load(numbers_ptr + 1), tl.load(numbers_ptr + 2)
    drawn = draws(seed, tensor, task, (tl.load(numbers_ptr + 3) + first, 0, here, BY_FOURS))
    value = tl.full([BLOCK], 1.0, tl.float32)
    if SCALED:
        value = tl.div_rn(tl.full([BLOCK], 4294967296.0, tl.float32), threshold.to(tl.float32))
    gate = tl.where(drawn.to(tl.uint64) < threshold, value, 0.0)
    tl.store(out_ptr + first + here, gate, mask=inside)
