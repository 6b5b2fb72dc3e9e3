"""Selective Task Arithmetic on one parameter tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.methods.quantile import rank_of_quantile
from sta_kernels.methods.sta import normaliser as normaliser_of
from sta_kernels.ops import _checks as check
from sta_kernels.ops import _schemas
from sta_kernels.ops._backends import host_backend, launching
from sta_kernels.ops._schemas import implement
from sta_kernels.ops.statistics import ranges_of


def sta_merge(
    base: Tensor,
    finetuned: Sequence[Tensor],
    importances: Sequence[Tensor] | None,
    *,
    p: float = 0.7,
    keep: int | None = None,
    normaliser: Tensor | None = None,
    measure: str = "lp",
    ties: str = "drop",
    weight: float | Sequence[float] = 1.0,
    lambda_: float = 1.0,
    kept: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Add to the base, at each position, the task vectors whose normalised importance is among the largest.

    ``Ĩ_i = (I_i − shift_i)/divisor_i``, ``M_i = [Ĩ_i > s_k]`` with ``s`` the N values of Ĩ at that position in
    ascending order and ``k = ⌊1 + (N − 1)p⌋``, ``θ = θ0 + λ·Σ_i w_i·M_i ⊙ (θ_i − θ0)``: eq. 13 to 17 of Selective
    Task Arithmetic (arXiv 2411.16139), where λ and w are 1.

    Args:
        base: θ0, of any shape and strides; float32, bfloat16, float16 or float64, as all operands, each its own.
        finetuned: θ_i, one tensor per task, of the base's shape and device. N is at least 1.
        importances: I_i, one tensor per task, of the base's shape; None for measure "amp".
        p: quantile of the N importances at a position, in [0, 1], at and below which a task is dropped. It is read as
            the decimal that was written.
        keep: how many of the N tasks a position keeps, 0 to N: k is N − keep. Where given, p is not used.
        normaliser: float32 [N, 2], (shift, divisor) per task, as :func:`normaliser` gives; a zero divisor stands for
            "all equal". None: minimum and range of these tensors (eq. 13), which reads the importances once more.
        measure: what I_i is: "lp" the tensor in ``importances``; "amp" θ_i² (eq. 21), formed on the way; "lp_amp" the
            tensor times θ_i² (eq. 22).
        ties: "drop": a task equal to the last one dropped is dropped too (the paper); "all": every task equal to the
            last one kept is kept; "first": of equal tasks the first ones are kept.
        weight: w_i, one number per task, or one for all.
        lambda_: λ.
        kept: int64 [N], receives the number of entries kept per task; [N + 1]: then also the number of positions that
            kept no task.
        out: receives the result; of the base's shape and device, any floating dtype. It may be the base or one of the
            fine-tuned tensors itself, but may not share memory with an operand in another way.

    Returns:
        ``out``, or a new contiguous tensor of the base's dtype. No gradient flows through it.

    Raises:
        TypeError: a dtype that no kernel reads (integer, complex, float8), a sparse tensor, or no tensor at all.
        ValueError: a shape, device, number of tensors or parameter that does not fit; the message names it.

    Numerics:
        float32 throughout, tasks added in order from 0, one rounding to the output dtype; the same bits on every
        backend. −0 equals +0 in comparisons. A NaN importance is never kept; an importance tensor that holds one has
        a NaN range, so that without ``normaliser`` its task keeps nothing. Where no task is kept, the base's own
        value is converted.
    """
    check.tensor("base", base)
    finetuned = check.tensors("finetuned", finetuned)
    importances = [] if importances is None else check.tensors("importances", importances)
    weight = check.per_model(weight, len(finetuned))
    p = _least_of_same_rank(check.decimal("p", p), len(finetuned))
    if out is None and kept is None:
        return _sta_merge(base, finetuned, importances, normaliser, p, keep, measure, ties, weight, lambda_)
    if out is None:
        out = torch.empty_like(base, memory_format=torch.contiguous_format, requires_grad=False)
    if kept is None:
        kept = base.new_empty(0, dtype=torch.int64)
    _sta_merge_out(base, finetuned, importances, normaliser, p, keep, measure, ties, weight, lambda_, out, kept)
    return out


def _least_of_same_rank(p: float, n_models: int) -> float:
    """While compiling, the least p that selects the same; else p itself.

    The compiler makes a constant of every float that it hands to an op, and so would compile again for each p until
    it reaches its limit. Compared and then replaced, p costs a compilation for each of its N outcomes only.
    """
    if not torch.compiler.is_compiling() or not 0.0 <= p <= 1.0:
        return p
    least = 0.0
    for step in _rank_steps(n_models):
        if p >= step:
            least = step
    return least


@torch.compiler.assume_constant_result
def _rank_steps(n_models: int) -> list[float]:
    """The least p in [0, 1] of each rank 1 to N."""
    steps = []
    for rank in range(1, n_models + 1):
        step = (rank - 1) / max(n_models - 1, 1)
        # The quotient is rounded, and p is read as a decimal: the step is this float or a neighbour.
        while step > 0.0 and rank_of_quantile(below := math.nextafter(step, 0.0), n_models) >= rank:
            step = below
        while rank_of_quantile(step, n_models) < rank:
            step = math.nextafter(step, 1.0)
        steps.append(step)
    return steps


def _new(
    base: Tensor,
    finetuned: list[Tensor],
    importances: list[Tensor],
    normaliser: Tensor | None,
    p: float,
    keep: int | None,
    measure: str,
    ties: str,
    weight: list[float],
    lambda_: float,
) -> Tensor:
    out = _schemas.sta_merge(base, finetuned, importances, normaliser, p, keep, measure, ties, weight, lambda_)
    _launch(base, finetuned, importances, normaliser, p, keep, measure, ties, weight, lambda_, out, None)
    return out


def _into(
    base: Tensor,
    finetuned: list[Tensor],
    importances: list[Tensor],
    normaliser: Tensor | None,
    p: float,
    keep: int | None,
    measure: str,
    ties: str,
    weight: list[float],
    lambda_: float,
    out: Tensor,
    kept: Tensor,
) -> None:
    arguments = (base, finetuned, importances, normaliser, p, keep, measure, ties, weight, lambda_, out)
    _schemas.sta_merge_out(*arguments, kept)
    models = [("base", base), *((f"finetuned[{i}]", each) for i, each in enumerate(finetuned))]
    check.no_overlap(out, models, in_place=True)
    read_only = [(f"importances[{i}]", each) for i, each in enumerate(importances)]
    if normaliser is not None:
        read_only.append(("normaliser", normaliser))
    check.no_overlap(out, read_only, in_place=False)
    _launch(*arguments, kept if kept.numel() else None)
    torch.autograd.graph.increment_version(out)


def _launch(
    base: Tensor,
    finetuned: list[Tensor],
    importances: list[Tensor],
    normaliser: Tensor | None,
    p: float,
    keep: int | None,
    measure: str,
    ties: str,
    weight: list[float],
    lambda_: float,
    out: Tensor,
    kept: Tensor | None,
) -> None:
    n_models = len(finetuned)
    k = rank_of_quantile(p, n_models) if keep is None else n_models - keep
    backend = host_backend(base.device)
    if backend is None:
        with launching(base.device) as launch:
            launch.sta_merge(
                base, finetuned, importances, normaliser, k, measure, ties, weight, lambda_, out=out, kept=kept
            )
        return
    models = [Buffer.from_torch(each) for each in finetuned]
    stored = [Buffer.from_torch(each) for each in importances] or None
    if normaliser is None:
        table = _minmax_normaliser(backend, models, stored, measure)
    else:
        table = normaliser.detach().contiguous().numpy()
    counts = np.zeros(n_models + 1, np.int64)
    backend.sta_merge(
        Buffer.from_torch(base),
        models,
        stored,
        measure=measure,
        normaliser_address=table.ctypes.data,
        k=k,
        ties=ties,
        weights=None if all(each == 1.0 for each in weight) else weight,
        lambda_=lambda_,
        out=Buffer.from_torch(out),
        counts_address=0 if kept is None else counts.ctypes.data,
        threads=torch.get_num_threads(),
    )
    if kept is not None:
        kept.copy_(torch.from_numpy(counts[: kept.numel()]))


def _minmax_normaliser(backend: Backend, models: list[Buffer], stored: list[Buffer] | None, measure: str) -> np.ndarray:
    """Eq. 13's (minimum, range) of each task's importance, which is read once more but never written down."""
    sources = [
        ImportanceSource(measure, stored[i] if stored else None, None if measure == "lp" else model)
        for i, model in enumerate(models)
    ]
    return normaliser_of("minmax", ranges_of(backend, sources))


implement("sta_merge", _new)
implement("sta_merge_out", _into)
_sta_merge = torch.ops.sta_kernels.sta_merge.default
_sta_merge_out = torch.ops.sta_kernels.sta_merge_out.default
