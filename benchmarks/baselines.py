"""The same results in plain PyTorch: eagerly and literally, and as ``torch.compile`` likes it best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile for the shapes at hand; earlier compilations are dropped."""
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, dynamic=False)


def sta_merge_eager(
    base: Tensor, finetuned: Sequence[Tensor], importances: Sequence[Tensor], p: float, normaliser: Tensor | None
) -> Tensor:
    """Eq. 13 to 17 as written: stack, normalise, sort, interpolate, compare, add."""
    n_tasks = len(finetuned)
    theta0 = base.float()
    tau = torch.stack([each.float() for each in finetuned]) - theta0  # [N, n]
    importance = torch.stack([each.float() for each in importances])  # [N, n]
    if normaliser is None:
        low, high = torch.aminmax(importance, dim=1)
        normaliser = torch.stack((low, high - low), dim=1)
    shift, divisor = normaliser.unbind(1)
    normalised = (importance - shift[:, None]) / divisor[:, None]
    ranked = torch.sort(normalised, dim=0).values
    position = 1 + (n_tasks - 1) * Fraction(str(p))
    k = math.floor(position)
    low, high = ranked[k - 1], ranked[min(k, n_tasks - 1)]
    threshold = low + float(position - k) * (high - low)
    return (theta0 + ((normalised > threshold) * tau).sum(0)).to(base.dtype)


def comparators(n: int) -> Iterator[tuple[int, int]]:
    """Merge exchange, a sorting network for any number of inputs (Knuth, TAOCP 5.2.2, algorithm M)."""
    top = 1 << max(0, (n - 1).bit_length() - 1)
    p = top if n > 1 else 0
    while p:
        q, r, d = top, 0, p
        while True:
            yield from ((i, i + d) for i in range(n - d) if i & p == r)
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2


def sta_merge_network(
    base: Tensor, finetuned: Sequence[Tensor], importances: Sequence[Tensor], normaliser: Tensor, k: int, out: Tensor
) -> None:
    """Eq. 13 to 17 without a sort: minima and maxima give the k-th smallest, and all of it fuses into one loop.

    The float32 operations are those of ``ops.sta_merge`` in the same order, so the bits are too; k is at least 1.
    """
    normalised = [(each.float() - normaliser[i, 0]) / normaliser[i, 1] for i, each in enumerate(importances)]
    ranked = list(normalised)
    for i, j in comparators(len(ranked)):
        ranked[i], ranked[j] = torch.minimum(ranked[i], ranked[j]), torch.maximum(ranked[i], ranked[j])
    theta0 = base.float()
    total = torch.zeros_like(theta0)
    kept = torch.zeros_like(theta0, dtype=torch.bool)
    for each, model in zip(normalised, finetuned, strict=True):
        mask = each > ranked[k - 1]
        total = torch.where(mask, total + (model.float() - theta0), total)
        kept = kept | mask
    out.copy_(torch.where(kept, theta0 + total, theta0))


def sta_forget_eager(target: Tensor, base: Tensor, finetuned: Tensor, importance: Tensor, p: float) -> Tensor:
    """Eq. 18 to 20 as written: sort the whole tensor, interpolate, compare, subtract."""
    ranked = torch.sort(importance.flatten().float()).values
    position = 1 + (importance.numel() - 1) * Fraction(str(p))
    k = math.floor(position)
    low, high = ranked[k - 1], ranked[min(k, len(ranked) - 1)]
    mask = importance.float() > low + float(position - k) * (high - low)
    return (target.float() - mask * (finetuned.float() - base.float())).to(target.dtype)


def linear_eager(finetuned: Sequence[Tensor]) -> Tensor:
    """Mean of the stacked tensors."""
    return torch.stack([each.float() for each in finetuned]).mean(0).to(finetuned[0].dtype)


def linear_fused(*tensors: Tensor) -> None:
    """The mean of all tensors but the last, into the last; for compilation."""
    *finetuned, out = tensors
    total = torch.zeros_like(finetuned[0], dtype=torch.float32)
    for each in finetuned:
        total = total + each.float()
    out.copy_(total / len(finetuned))


def task_arithmetic_eager(base: Tensor, finetuned: Sequence[Tensor], lambda_: float) -> Tensor:
    """Task vectors stacked, added, scaled."""
    theta0 = base.float()
    tau = torch.stack([each.float() for each in finetuned]) - theta0
    return (theta0 + lambda_ * tau.sum(0)).to(base.dtype)


def task_arithmetic_fused(base: Tensor, *tensors: Tensor, lambda_: float) -> None:
    """Task arithmetic with all tensors but the last, into the last; for compilation."""
    *finetuned, out = tensors
    theta0 = base.float()
    total = torch.zeros_like(theta0)
    for each in finetuned:
        total = total + (each.float() - theta0)
    out.copy_(theta0 + lambda_ * total)


def taylor_accumulate(total: Tensor, grad: Tensor) -> None:
    """Eagerly with |g| in memory, compiled without."""
    total.add_(grad.abs())


def taylor_finish(total: Tensor, param: Tensor, measure: str, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The importance, and a pass each for minimum, maximum and mean where they are not fused."""
    theta = param.float()
    importance = theta.abs() * total
    if measure == "lp_amp":
        importance = importance * (theta * theta)
    out.copy_(importance)
    return out.amin(), out.amax(), out.mean()
