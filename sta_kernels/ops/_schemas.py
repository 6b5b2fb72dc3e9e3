"""Every schema of the ``sta_kernels`` namespace, with its checks and the tensors that it returns.

One function per op: it checks the arguments and allocates what the op returns. It is the op's fake kernel as it
stands; a real kernel calls it first and then fills the result. Kernels are registered with :func:`implement`; on a
device that they do not serve, the op raises the same errors for wrong arguments, and then says so.

No op is differentiable: autograd is passed by, and no result carries a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sta_kernels.kernels.buffers import MEASURES
from sta_kernels.methods.sta import NORMALISERS
from sta_kernels.ops import _checks as check

LIBRARY = torch.library.Library("sta_kernels", "DEF")
"""Kept alive as long as the ops are: its end unregisters them."""


def _op(schema: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Define an op whose fake kernel is the decorated function."""
    name = schema[: schema.index("(")]

    def register(fake: Callable[..., Any]) -> Callable[..., Any]:
        def unserved(*args: Any, **kwargs: Any) -> None:
            fake(*args, **kwargs)
            raise NotImplementedError(
                f"sta_kernels::{name} has no kernel for tensors on this device; move them to the CPU or a CUDA device"
            )

        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
        LIBRARY.impl(name, unserved, "CompositeExplicitAutograd")
        torch.library.register_fake(f"sta_kernels::{name}", fake, lib=LIBRARY)
        return fake

    return register


def implement(name: str, kernel: Callable[..., Any]) -> None:
    """Register an op's kernel for main memory and for GPUs; the key "CUDA" is also ROCm's."""
    for key in ("CPU", "CUDA"):
        LIBRARY.impl(name, kernel, key)


def _like(tensor: Tensor) -> Tensor:
    """What a kernel fills: contiguous, whatever the strides of the operand whose dtype and shape it has."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


_STA_MERGE = (
    "Tensor base, Tensor[] finetuned, Tensor[] importances, Tensor? normaliser, float p, SymInt? keep, str measure, "
    "str ties, float[] weight, float lambda_"
)


@_op(f"sta_merge({_STA_MERGE}) -> Tensor")
def sta_merge(
    base: Tensor,
    finetuned: Sequence[Tensor],
    importances: Sequence[Tensor],
    normaliser: Tensor | None,
    p: float,
    keep: int | None,
    measure: str,
    ties: str,
    weight: Sequence[float],
    lambda_: float,
) -> Tensor:
    """Eq. 13 to 17 into a new tensor."""
    check.merge_operands(base, finetuned, importances, normaliser, p, keep, measure, ties, weight, lambda_)
    return _like(base)


@_op(f"sta_merge_out({_STA_MERGE}, Tensor(a!) out, Tensor(b!) kept) -> ()")
def sta_merge_out(
    base: Tensor,
    finetuned: Sequence[Tensor],
    importances: Sequence[Tensor],
    normaliser: Tensor | None,
    p: float,
    keep: int | None,
    measure: str,
    ties: str,
    weight: Sequence[float],
    lambda_: float,
    out: Tensor,
    kept: Tensor,
) -> None:
    """Eq. 13 to 17 into ``out``; counts into ``kept``, unless it is empty."""
    check.merge_operands(base, finetuned, importances, normaliser, p, keep, measure, ties, weight, lambda_)
    check.alike("out", out, "base", base)
    check.counts("kept", kept, (len(finetuned), len(finetuned) + 1), "base", base)


_STA_FORGET = (
    "Tensor target, Tensor base, Tensor finetuned, Tensor? importance, float p, str measure, float weight, "
    "float lambda_"
)


@_op(f"sta_forget({_STA_FORGET}) -> Tensor")
def sta_forget(
    target: Tensor,
    base: Tensor,
    finetuned: Tensor,
    importance: Tensor | None,
    p: float,
    measure: str,
    weight: float,
    lambda_: float,
) -> Tensor:
    """Eq. 18 to 20 into a new tensor."""
    check.forget_operands(target, base, finetuned, importance, p, measure, weight, lambda_)
    return _like(target)


@_op(f"sta_forget_out({_STA_FORGET}, Tensor(a!) out, Tensor(b!) kept) -> ()")
def sta_forget_out(
    target: Tensor,
    base: Tensor,
    finetuned: Tensor,
    importance: Tensor | None,
    p: float,
    measure: str,
    weight: float,
    lambda_: float,
    out: Tensor,
    kept: Tensor,
) -> None:
    """Eq. 18 to 20 into ``out``; the count into ``kept``, unless it is empty."""
    check.forget_operands(target, base, finetuned, importance, p, measure, weight, lambda_)
    check.alike("out", out, "target", target)
    check.counts("kept", kept, (1,), "target", target)


@_op("minmax(Tensor[] tensors) -> Tensor")
def minmax(tensors: Sequence[Tensor]) -> Tensor:
    """Range of each tensor: float32 [N, 2]."""
    _statistics_operands(tensors)
    return tensors[0].new_empty((len(tensors), 2), dtype=torch.float32)


@_op("normaliser(Tensor[] tensors, int[] blocks, str kind) -> Tensor")
def normaliser(tensors: Sequence[Tensor], blocks: Sequence[int], kind: str) -> Tensor:
    """Shift and divisor of each block of consecutive tensors: float32 [blocks, 2]."""
    _statistics_operands(tensors)
    check.one_of("kind", kind, NORMALISERS)
    if any(length < 1 for length in blocks) or sum(blocks) != len(tensors):
        raise ValueError(f"blocks: {list(blocks)}; {len(tensors)} tensors are to be shared out, at least one to each")
    return tensors[0].new_empty((len(blocks), 2), dtype=torch.float32)


def _statistics_operands(tensors: Sequence[Tensor]) -> None:
    check.at_least_one("tensors", tensors)
    for index, tensor in enumerate(tensors):
        check.floating(f"tensors[{index}]", tensor)
        check.same_device(f"tensors[{index}]", tensor, "tensors[0]", tensors[0])


@_op("order_statistic(Tensor x, SymInt k) -> Tensor")
def order_statistic(x: Tensor, k: int) -> Tensor:
    """Exact k-th smallest: a 0-dim tensor of ``x``'s dtype."""
    check.floating("x", x)
    if not 1 <= k <= x.numel():
        raise ValueError(f"k: {k}; 1 to {x.numel()} (the number of elements of x) is needed")
    return x.new_empty(())


@_op("taylor_accumulate_(Tensor(a!) total, Tensor grad) -> ()")
def taylor_accumulate_(total: Tensor, grad: Tensor) -> None:
    """``total += |grad|``."""
    check.floating("total", total)
    check.alike("grad", grad, "total", total)


@_op("taylor_finish(Tensor total, Tensor param, str measure) -> (Tensor, Tensor)")
def taylor_finish(total: Tensor, param: Tensor, measure: str) -> tuple[Tensor, Tensor]:
    """Importance into a new tensor of ``total``'s dtype; float32 [3]: min, max, mean."""
    _finish_operands(total, param, measure)
    return _like(total), total.new_empty(3, dtype=torch.float32)


@_op("taylor_finish_out(Tensor total, Tensor param, str measure, Tensor(a!) out) -> Tensor")
def taylor_finish_out(total: Tensor, param: Tensor, measure: str, out: Tensor) -> Tensor:
    """Importance into ``out``; float32 [3]: min, max, mean."""
    _finish_operands(total, param, measure)
    check.alike("out", out, "total", total)
    return total.new_empty(3, dtype=torch.float32)


def _finish_operands(total: Tensor, param: Tensor, measure: str) -> None:
    check.floating("total", total)
    check.alike("param", param, "total", total)
    check.one_of("measure", measure, MEASURES)


_LINEAR = "Tensor? base, Tensor[] finetuned, float[] weight, bool normalize"


@_op(f"linear({_LINEAR}) -> Tensor")
def linear(base: Tensor | None, finetuned: Sequence[Tensor], weight: Sequence[float], normalize: bool) -> Tensor:
    """Weighted average into a new tensor of the base's dtype (without a base: of the first model's)."""
    return _like(_linear_operands(base, finetuned, weight))


@_op(f"linear_out({_LINEAR}, Tensor(a!) out) -> ()")
def linear_out(
    base: Tensor | None, finetuned: Sequence[Tensor], weight: Sequence[float], normalize: bool, out: Tensor
) -> None:
    """Weighted average into ``out``."""
    _linear_operands(base, finetuned, weight)
    check.alike("out", out, "finetuned[0]", finetuned[0])


def _linear_operands(base: Tensor | None, finetuned: Sequence[Tensor], weight: Sequence[float]) -> Tensor:
    check.at_least_one("finetuned", finetuned)
    name, pattern = ("finetuned[0]", finetuned[0]) if base is None else ("base", base)
    check.floating(name, pattern)
    check.all_alike("finetuned", finetuned, name, pattern)
    check.weights(weight, len(finetuned))
    return pattern


_TASK_ARITHMETIC = "Tensor base, Tensor[] finetuned, float[] weight, float lambda_, bool normalize"


@_op(f"task_arithmetic({_TASK_ARITHMETIC}) -> Tensor")
def task_arithmetic(
    base: Tensor, finetuned: Sequence[Tensor], weight: Sequence[float], lambda_: float, normalize: bool
) -> Tensor:
    """θ0 + λ·Σ w·τ into a new tensor."""
    check.finite("lambda_", lambda_)
    return _like(_linear_operands(base, finetuned, weight))


@_op(f"task_arithmetic_out({_TASK_ARITHMETIC}, Tensor(a!) out) -> ()")
def task_arithmetic_out(
    base: Tensor,
    finetuned: Sequence[Tensor],
    weight: Sequence[float],
    lambda_: float,
    normalize: bool,
    out: Tensor,
) -> None:
    """θ0 + λ·Σ w·τ into ``out``."""
    check.finite("lambda_", lambda_)
    _linear_operands(base, finetuned, weight)
    check.alike("out", out, "base", base)


_MERGE_TENSOR = "Tensor? base, Tensor[] finetuned, Tensor[] importances, str method, str parameters, str tensor"


@_op(f"merge_tensor({_MERGE_TENSOR}) -> Tensor")
def merge_tensor(
    base: Tensor | None,
    finetuned: Sequence[Tensor],
    importances: Sequence[Tensor],
    method: str,
    parameters: str,
    tensor: str,
) -> Tensor:
    """Any method on one tensor, into a new one; parameters as JSON."""
    return _like(check.method_operands(base, finetuned, importances, method, parameters))


@_op(f"merge_tensor_out({_MERGE_TENSOR}, Tensor(a!) out) -> ()")
def merge_tensor_out(
    base: Tensor | None,
    finetuned: Sequence[Tensor],
    importances: Sequence[Tensor],
    method: str,
    parameters: str,
    tensor: str,
    out: Tensor,
) -> None:
    """Any method on one tensor, into ``out``."""
    check.method_operands(base, finetuned, importances, method, parameters)
    check.alike("out", out, "finetuned[0]", finetuned[0])
