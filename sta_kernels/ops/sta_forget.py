"""STA forgetting on one parameter tensor."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.methods.quantile import rank_of_quantile
from sta_kernels.ops import _checks as check
from sta_kernels.ops import _schemas
from sta_kernels.ops._backends import host_backend, launching
from sta_kernels.ops._schemas import implement


def sta_forget(
    target: Tensor,
    base: Tensor,
    finetuned: Tensor,
    importance: Tensor | None,
    *,
    p: float = 0.7,
    measure: str = "lp",
    weight: float = 1.0,
    lambda_: float = 1.0,
    kept: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Subtract from a model the entries of one task vector that matter most to that task.

    ``θ = θ_target − λ·w·M ⊙ (θ_1 − θ0)``, ``M = [I > s_k]`` with ``s_k`` the k-th smallest of the tensor's n
    importances and ``k = ⌊1 + (n − 1)p⌋``: eq. 18 to 20 of Selective Task Arithmetic (arXiv 2411.16139), where λ and w
    are 1.

    Args:
        target: the model to subtract from, often the base itself; of any shape and strides; float32, bfloat16,
            float16 or float64, as all operands, each its own.
        base: θ0, of the target's shape and device.
        finetuned: θ_1, the task's own model.
        importance: I, the task's importance; None for measure "amp".
        p: quantile of the importance over the tensor, in [0, 1], at and below which an entry is left alone. It is read
            as the decimal that was written.
        measure: what I is: "lp" the tensor in ``importance``; "amp" θ_1² (eq. 21); "lp_amp" the tensor times θ_1²
            (eq. 22).
        weight: w.
        lambda_: λ.
        kept: int64 [1], receives the number of entries subtracted.
        out: receives the result; of the target's shape and device, any floating dtype. It may be the target, the base
            or the fine-tuned tensor itself, but may not share memory with an operand in another way.

    Returns:
        ``out``, or a new contiguous tensor of the target's dtype. No gradient flows through it.

    Raises:
        TypeError: a dtype that no kernel reads (integer, complex, float8), a sparse tensor, or no tensor at all.
        ValueError: a shape, device or parameter that does not fit; the message names it.

    Numerics:
        s_k is exact, without a copy or a sort of the importance, whose float32 values are compared; a NaN importance
        ranks last and is never subtracted. float32 arithmetic, one rounding to the output dtype; the same bits on
        every backend. An entry outside the mask is the target's own value, converted.
    """
    for name, each in (("target", target), ("base", base), ("finetuned", finetuned)):
        check.tensor(name, each)
    p = check.decimal("p", p)
    if out is None and kept is None:
        return _sta_forget(target, base, finetuned, importance, p, measure, weight, lambda_)
    if out is None:
        out = torch.empty_like(target, memory_format=torch.contiguous_format, requires_grad=False)
    if kept is None:
        kept = target.new_empty(0, dtype=torch.int64)
    _sta_forget_out(target, base, finetuned, importance, p, measure, weight, lambda_, out, kept)
    return out


def _new(
    target: Tensor,
    base: Tensor,
    finetuned: Tensor,
    importance: Tensor | None,
    p: float,
    measure: str,
    weight: float,
    lambda_: float,
) -> Tensor:
    out = _schemas.sta_forget(target, base, finetuned, importance, p, measure, weight, lambda_)
    _launch(target, base, finetuned, importance, p, measure, weight, lambda_, out, None)
    return out


def _into(
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
    _schemas.sta_forget_out(target, base, finetuned, importance, p, measure, weight, lambda_, out, kept)
    check.no_overlap(out, [("target", target), ("base", base), ("finetuned", finetuned)], in_place=True)
    if importance is not None:
        check.no_overlap(out, [("importance", importance)], in_place=False)
    kept_or_none = kept if kept.numel() else None
    _launch(target, base, finetuned, importance, p, measure, weight, lambda_, out, kept_or_none)
    torch.autograd.graph.increment_version(out)


def _launch(
    target: Tensor,
    base: Tensor,
    finetuned: Tensor,
    importance: Tensor | None,
    p: float,
    measure: str,
    weight: float,
    lambda_: float,
    out: Tensor,
    kept: Tensor | None,
) -> None:
    """Select, then subtract."""
    n_elements = target.numel()
    if n_elements == 0:  # no order statistic to be had
        if kept is not None:
            kept.zero_()
        return
    k = rank_of_quantile(p, n_elements)
    backend, threads = host_backend(target.device), torch.get_num_threads()
    if backend is None:
        with launching(target.device) as launch:
            launch.sta_forget(target, base, finetuned, importance, k, measure, weight, lambda_, out=out, kept=kept)
        return
    model = Buffer.from_torch(finetuned)
    stored = None if importance is None else Buffer.from_torch(importance)
    source = ImportanceSource(measure, stored, None if measure == "lp" else model)
    count = np.zeros(1, np.int64)
    backend.sta_forget(
        Buffer.from_torch(target),
        Buffer.from_torch(base),
        model,
        source,
        threshold=backend.order_statistic(source, k, threads=threads),
        weight=weight,
        lambda_=lambda_,
        out=Buffer.from_torch(out),
        counts_address=count.ctypes.data,
        threads=threads,
    )
    if kept is not None:
        kept.fill_(int(count[0]))


implement("sta_forget", _new)
implement("sta_forget_out", _into)
_sta_forget = torch.ops.sta_kernels.sta_forget.default
_sta_forget_out = torch.ops.sta_kernels.sta_forget_out.default
