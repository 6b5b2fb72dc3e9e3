"""Sums of sparsified task vectors, with or without an elected sign: TIES, DARE, Breadcrumbs, DELLA.

See :mod:`sta_kernels.kernels.reference.formulas.sparse_sum` for the parameters.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sta_kernels.kernels.triton.formulas.arithmetic import ordered_sum, quotient
from sta_kernels.kernels.triton.formulas.philox import draws

_BAND: tl.constexpr = tl.constexpr(1)
_RANDOM: tl.constexpr = tl.constexpr(2)
_MASK: tl.constexpr = tl.constexpr(3)


def cuts(variant: tuple[int, ...], n_models: int) -> tuple[int, ...]:
    """Which of the integers end ties: the upper and lower cut of each model, where bands are kept."""
    return tuple(2 + 4 * i + side for i in range(n_models) for side in (0, 1)) if variant[0] == _BAND.value else ()


@triton.jit
def above(magnitude, index, threshold, cut):
    """Greater than the threshold, or equal to it at an index below the cut; of what is not negative."""
    # What is greater is as great as the next number.
    following = ((threshold.to(tl.int32, bitcast=True) & 0x7FFFFFFF) + 1).to(tl.float32, bitcast=True)
    following = tl.where(threshold >= 0.0, following, threshold)
    if index[4]:
        return magnitude >= tl.where(index[0] + index[2] < cut, threshold, following)
    else:
        return magnitude >= tl.where(index[0] < cut, threshold, following)


@triton.jit
def _gated(tau, importances, index, per_model, integers, TASK: tl.constexpr, GATE: tl.constexpr):
    """Which entries of one task's vector its gate keeps."""
    if GATE == _BAND:
        inside = above(tl.abs(tau), index, per_model[3], integers[3 + 4 * TASK])
        return inside & ~above(tl.abs(tau), index, per_model[2], integers[2 + 4 * TASK])
    elif GATE == _RANDOM:
        kept = integers[4 + 4 * TASK]  # of 2**32, which 32 bits do not hold
        draw = draws(integers[0], integers[1], integers[5 + 4 * TASK], index)
        return (draw <= (kept - 1).to(tl.uint32)) & (kept > 0)
    elif GATE == _MASK:
        return importances[TASK] != 0.0
    else:
        return tl.full(tau.shape, True, tl.int1)


@triton.jit
def _sparse(base, models, importances, index, per_model, integers, N: tl.constexpr, GATE: tl.constexpr):
    """``d_i = RN(w_i·RN(s_i·τ_i))`` where the gate keeps it, +0 elsewhere; with a mask, RN(m_i·τ_i) stands for τ_i."""
    terms = ()
    for i in tl.static_range(N):
        tau = models[i] - base
        kept = _gated(tau, importances, index, per_model[i], integers, i, GATE)
        if GATE == _MASK:
            tau = importances[i] * tau
        terms += (tl.where(kept, per_model[i][0] * (per_model[i][1] * tau), 0.0),)
    return terms


@triton.jit
def elected(terms, zero_sign, N: tl.constexpr):
    """Sign of the sum over the tasks, ``zero_sign`` where that is 0."""
    total = ordered_sum(terms, N)
    return tl.where(total > 0.0, 1.0, tl.where(total < 0.0, -1.0, zero_sign))


@triton.jit
def sparse_sum(base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr):
    """``δ = RN(λ·s)``, s the sum of d_i in order, of the elected sign where one is elected, divided where asked for."""
    terms = _sparse(base, models, importances, index, per_model, integers, N, VARIANT[0])
    if VARIANT[1]:
        sign = elected(terms, shared[2], N)
        side = tl.where(sign > 0.0, 1.0, tl.where(sign < 0.0, -1.0, 0.0))
        # Turned to the elected side, what agrees is what is positive, and sums round alike on either side.
        total = tl.zeros(base.shape, tl.float32)
        weight = tl.zeros(base.shape, tl.float32)
        for i in tl.static_range(N):
            agreeing = tl.maximum(terms[i] * side, 0.0)  # of a NaN it is 0
            total += agreeing
            weight += tl.where(agreeing > 0.0, per_model[i][0], 0.0)
        total = total * side + 0.0  # not −0
        return shared[0] * (quotient(total, weight) if VARIANT[2] else total)
    else:
        return shared[0] * quotient(ordered_sum(terms, N), shared[1])


@triton.jit
def elected_sign(base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr):
    """The elected sign, as :func:`sparse_sum` uses it."""
    return elected(_sparse(base, models, importances, index, per_model, integers, N, VARIANT[0]), shared[2], N)


@triton.jit
def sparse_distance(
    base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr
):
    """``|τ|`` of the one model where its gate keeps it, +0 elsewhere."""
    tau = models[0] - base
    return tl.where(_gated(tau, importances, index, per_model[0], integers, 0, VARIANT[0]), tl.abs(tau), 0.0)


@triton.jit
def distance(base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr):
    """``|τ|`` of the one model."""
    return tl.abs(models[0] - base)
