"""The ops on device tensors: from checked tensors to launches of the Triton kernels.

Nothing here waits for the device, or reads from it: statistics that a later step needs stay where they are. Launches go
to the current stream of the tensors' device, and can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.kernels.triton import tables
from sta_kernels.kernels.triton.leaf_sums import launch_fold, launch_leaf_sums
from sta_kernels.kernels.triton.order_statistic import launch_order_statistic, launch_order_statistic_exact
from sta_kernels.kernels.triton.sta_forget import ForgetSegment, launch_sta_forget
from sta_kernels.kernels.triton.sta_merge import MergeSegment, launch_sta_merge
from sta_kernels.kernels.triton.statistics import fits_cache, launch_ranges
from sta_kernels.kernels.triton.taylor import FinishItem, launch_taylor_accumulate, launch_taylor_finish
from sta_kernels.kernels.triton.weighted_sum import SumSegment, launch_weighted_sum
from sta_kernels.ops._flat import Flat, flat, of_one_dtype


def sta_merge(
    base: Tensor,
    finetuned: Sequence[Tensor],
    importances: Sequence[Tensor],
    normaliser: Tensor | None,
    k: int,
    measure: str,
    ties: str,
    weight: Sequence[float],
    lambda_: float,
    out: Tensor,
    kept: Tensor | None,
) -> None:
    """Eq. 13 to 17 into ``out``; counts into ``kept`` where one is given."""
    device, n_tasks = base.device, len(finetuned)
    finetuned, importances = of_one_dtype(finetuned), of_one_dtype(importances)
    memory = Flat([base, *finetuned, *importances, out])
    models = tuple(memory.read(each) for each in finetuned)
    stored = tuple(memory.read(each) for each in importances)
    if normaliser is None:
        # What fits the second-level cache is asked to stay there, and leaves memory once.
        resident = fits_cache(device, [*stored, *(() if measure == "lp" else models)])
        table = _ranges_to_normaliser(launch_ranges(device, _sources(measure, stored, models), resident=resident))
    else:
        table = normaliser.detach().contiguous()
    weights = None
    if any(each != 1.0 for each in weight):
        (weights,) = tables.upload(device, np.array([weight], np.float32))
    counts = None if kept is None else torch.zeros((1, n_tasks + 1), dtype=torch.int64, device=device)
    launch_sta_merge(
        device,
        [MergeSegment(memory.read(base), models, stored, memory.written(out))],
        k=k,
        ties=ties,
        measure=measure,
        normaliser=table[None],
        weights=weights,
        lambda_=lambda_,
        counts=counts,
    )
    memory.finish()
    if kept is not None and counts is not None:
        kept.copy_(counts[0, : kept.numel()])


def sta_forget(
    target: Tensor,
    base: Tensor,
    finetuned: Tensor,
    importance: Tensor | None,
    k: int,
    measure: str,
    weight: float,
    lambda_: float,
    out: Tensor,
    kept: Tensor | None,
) -> None:
    """Eq. 18 to 20 into ``out``; the count into ``kept`` where one is given. There is at least one element."""
    device = target.device
    memory = Flat([target, base, finetuned, out, *([] if importance is None else [importance])])
    model = memory.read(finetuned)
    stored = None if importance is None else memory.read(importance)
    thresholds = launch_order_statistic(device, _sources(measure, () if stored is None else (stored,), (model,)), [k])
    counts = None if kept is None else torch.zeros(1, dtype=torch.int64, device=device)
    launch_sta_forget(
        device,
        [ForgetSegment(memory.read(target), memory.read(base), model, stored, memory.written(out))],
        thresholds=thresholds,
        measure=measure,
        weight=weight,
        lambda_=lambda_,
        counts=counts,
    )
    memory.finish()
    if kept is not None and counts is not None:
        kept.copy_(counts)


def weighted_sum(
    base: Tensor | None,
    finetuned: Sequence[Tensor],
    weight: Sequence[float],
    divisor: float,
    lambda_: float,
    out: Tensor,
) -> None:
    """``[θ0 +] λ·((Σ w_i·(θ_i [− θ0]))/divisor)`` into ``out``."""
    memory = Flat([*finetuned, out, *([] if base is None else [base])])
    start = None if base is None else memory.read(base)
    segment = SumSegment(start, tuple(memory.read(each) for each in finetuned), memory.written(out))
    launch_weighted_sum(out.device, [segment], weights=weight, divisor=divisor, lambda_=lambda_)
    memory.finish()


def minmax(tensors: Sequence[Tensor], out: Tensor) -> None:
    """The range of each tensor into the rows of ``out``."""
    out.copy_(launch_ranges(out.device, [ImportanceSource("lp", flat(tensor)) for tensor in tensors]))


def normaliser(tensors: Sequence[Tensor], blocks: Sequence[int], kind: str, out: Tensor) -> None:
    """Shift and divisor of each block of consecutive tensors into the rows of ``out``."""
    device = out.device
    if kind == "minmax":
        slots = np.repeat(np.arange(len(blocks)), blocks).tolist()
        sources = [ImportanceSource("lp", flat(tensor)) for tensor in tensors]
        out.copy_(_ranges_to_normaliser(launch_ranges(device, sources, slots=slots)))
        return
    sources = [ImportanceSource("lp", Flat([tensor], in_order=True).read(tensor)) for tensor in tensors]
    leaves = launch_leaf_sums(device, sources)
    ends = np.cumsum(blocks).tolist()
    spans = [slice(end - length, end) for end, length in zip(ends, blocks, strict=True)]
    sizes = [sum(tensor.numel() for tensor in tensors[span]) for span in spans]
    out[:, 0].zero_()
    out[:, 1] = _means(device, [torch.cat(leaves[span]) for span in spans], sizes)


def order_statistic(x: Tensor, k: int, out: Tensor) -> None:
    """The exact k-th smallest element into the 0-dim ``out``."""
    out.copy_(launch_order_statistic_exact(x.device, [flat(x)], [k])[0])


def taylor_accumulate(total: Tensor, grad: Tensor) -> None:
    """``total += |grad|``."""
    memory = Flat([total, grad])
    launch_taylor_accumulate(total.device, [(memory.updated(total), memory.read(grad))])
    memory.finish()


def taylor_finish(total: Tensor, param: Tensor, measure: str, out: Tensor, stats: Tensor) -> None:
    """The importance into ``out``; its minimum, maximum and mean into ``stats``."""
    device = out.device
    memory = Flat([total, param, out], in_order=True)
    item = FinishItem(memory.read(total), memory.read(param), memory.written(out))
    ranges, leaves = launch_taylor_finish(device, [item], measure=measure)
    memory.finish()
    stats[:2] = ranges[0]
    stats[2:] = _means(device, leaves, [out.numel()])


def _sources(measure: str, stored: Sequence[Buffer], models: Sequence[Buffer]) -> list[ImportanceSource]:
    """Each task's importance, which is formed as it is read."""
    return [
        ImportanceSource(measure, stored[i] if stored else None, None if measure == "lp" else model)
        for i, model in enumerate(models)
    ]


def _ranges_to_normaliser(ranges: Tensor) -> Tensor:
    """Eq. 13's (minimum, range) of each row of (minimum, maximum)."""
    lowest, highest = ranges.unbind(1)
    return torch.stack((lowest, highest - lowest), dim=1)


def _means(device: torch.device, leaves: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Tier-B sums over the numbers of elements, float32; 0 where there is nothing."""
    # Divided by a tensor: PyTorch multiplies by the reciprocal of a number, which rounds twice.
    (counts,) = tables.upload(device, np.maximum(sizes, 1).astype(np.float64))
    return (launch_fold(device, leaves) / counts).float()
