"""Weighted averaging and task arithmetic on one parameter tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sta_kernels.kernels.buffers import Buffer
from sta_kernels.methods.linear import divisor
from sta_kernels.ops import _checks as check
from sta_kernels.ops import _schemas
from sta_kernels.ops._backends import host_backend, launching
from sta_kernels.ops._schemas import implement


def linear(
    base: Tensor | None,
    finetuned: Sequence[Tensor],
    *,
    weight: float | Sequence[float] = 1.0,
    normalize: bool = True,
    out: Tensor | None = None,
) -> Tensor:
    """Average the fine-tuned tensors.

    ``θ = Σ_i w_i·θ_i / Σ_i w_i`` (model soups, arXiv 2203.05482).

    Args:
        base: θ0 is not in the equation: it gives the result's dtype, and its shape is checked. None: the first
            fine-tuned tensor does.
        finetuned: θ_i, at least one tensor; all of one shape and device, any strides; float32, bfloat16, float16 or
            float64, each its own.
        weight: w_i, one number per tensor, or one for all.
        normalize: divide by the sum of the weights; a sum of 0 counts as 1. False: the plain sum.
        out: receives the result; of the same shape and device, any floating dtype. It may be one of the operands
            itself, but may not share memory with one in another way.

    Returns:
        ``out``, or a new contiguous tensor of the base's dtype. No gradient flows through it.

    Raises:
        TypeError: a dtype that no kernel reads (integer, complex, float8), a sparse tensor, or no tensor at all.
        ValueError: a shape, device, number of tensors or weight that does not fit; the message names it.

    Numerics:
        float32 products added in order from 0, one correctly rounded division, one rounding to the output dtype; the
        same bits on every backend.
    """
    finetuned = check.tensors("finetuned", finetuned)
    weight = check.per_model(weight, len(finetuned))
    if out is None:
        return _linear(base, finetuned, weight, normalize)
    _linear_out(base, finetuned, weight, normalize, out)
    return out


def task_arithmetic(
    base: Tensor,
    finetuned: Sequence[Tensor],
    *,
    weight: float | Sequence[float] = 1.0,
    lambda_: float = 1.0,
    normalize: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Add the sum of the task vectors to the base.

    ``θ = θ0 + λ·Σ_i w_i·(θ_i − θ0)`` (task arithmetic, arXiv 2212.04089, eq. of section 2; λ < 0 negates).

    Args:
        base: θ0, of any shape and strides; float32, bfloat16, float16 or float64, as all operands, each its own.
        finetuned: θ_i, at least one tensor; of the base's shape and device.
        weight: w_i, one number per tensor, or one for all.
        lambda_: λ.
        normalize: divide the sum by the sum of the weights; a sum of 0 counts as 1.
        out: receives the result; of the base's shape and device, any floating dtype. It may be the base or one of the
            fine-tuned tensors itself, but may not share memory with an operand in another way.

    Returns:
        ``out``, or a new contiguous tensor of the base's dtype. No gradient flows through it.

    Raises:
        TypeError: a dtype that no kernel reads (integer, complex, float8), a sparse tensor, or no tensor at all.
        ValueError: a shape, device, number of tensors or parameter that does not fit; the message names it.

    Numerics:
        float32 throughout: differences, products, a sum in order from 0, one correctly rounded division, λ, then the
        base; one rounding to the output dtype; the same bits on every backend.
    """
    check.tensor("base", base)
    finetuned = check.tensors("finetuned", finetuned)
    weight = check.per_model(weight, len(finetuned))
    if out is None:
        return _task_arithmetic(base, finetuned, weight, lambda_, normalize)
    _task_arithmetic_out(base, finetuned, weight, lambda_, normalize, out)
    return out


def _linear_new(base: Tensor | None, finetuned: list[Tensor], weight: list[float], normalize: bool) -> Tensor:
    out = _schemas.linear(base, finetuned, weight, normalize)
    _launch(None, finetuned, weight, 1.0, normalize, out)
    return out


def _linear_into(
    base: Tensor | None, finetuned: list[Tensor], weight: list[float], normalize: bool, out: Tensor
) -> None:
    _schemas.linear_out(base, finetuned, weight, normalize, out)
    check.no_overlap(out, _named(finetuned), in_place=True)
    _launch(None, finetuned, weight, 1.0, normalize, out)
    torch.autograd.graph.increment_version(out)


def _task_arithmetic_new(
    base: Tensor, finetuned: list[Tensor], weight: list[float], lambda_: float, normalize: bool
) -> Tensor:
    out = _schemas.task_arithmetic(base, finetuned, weight, lambda_, normalize)
    _launch(base, finetuned, weight, lambda_, normalize, out)
    return out


def _task_arithmetic_into(
    base: Tensor, finetuned: list[Tensor], weight: list[float], lambda_: float, normalize: bool, out: Tensor
) -> None:
    _schemas.task_arithmetic_out(base, finetuned, weight, lambda_, normalize, out)
    check.no_overlap(out, [("base", base), *_named(finetuned)], in_place=True)
    _launch(base, finetuned, weight, lambda_, normalize, out)
    torch.autograd.graph.increment_version(out)


def _named(finetuned: list[Tensor]) -> list[tuple[str, Tensor]]:
    return [(f"finetuned[{index}]", each) for index, each in enumerate(finetuned)]


def _launch(
    base: Tensor | None, finetuned: list[Tensor], weight: list[float], lambda_: float, normalize: bool, out: Tensor
) -> None:
    total = divisor(weight, normalize)
    backend = host_backend(out.device)
    if backend is None:
        with launching(out.device) as launch:
            launch.weighted_sum(base, finetuned, weight, total, lambda_, out)
        return
    backend.weighted_sum(
        None if base is None else Buffer.from_torch(base),
        [Buffer.from_torch(each) for each in finetuned],
        weights=weight,
        divisor=total,
        lambda_=lambda_,
        out=Buffer.from_torch(out),
        threads=torch.get_num_threads(),
    )


implement("linear", _linear_new)
implement("linear_out", _linear_into)
implement("task_arithmetic", _task_arithmetic_new)
implement("task_arithmetic_out", _task_arithmetic_into)
_linear = torch.ops.sta_kernels.linear.default
_linear_out = torch.ops.sta_kernels.linear_out.default
_task_arithmetic = torch.ops.sta_kernels.task_arithmetic.default
_task_arithmetic_out = torch.ops.sta_kernels.task_arithmetic_out.default
