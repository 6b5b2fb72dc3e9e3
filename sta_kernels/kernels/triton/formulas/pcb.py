"""Parameter competition balancing: scores from each task's own magnitudes and from their agreement.

See :mod:`sta_kernels.kernels.reference.formulas.pcb` for the parameters.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sta_kernels.kernels.triton.formulas.arithmetic import ordered_sum, task_vectors
from sta_kernels.kernels.triton.formulas.elementary import exp, tanh
from sta_kernels.kernels.triton.primitives import greatest, least

_LEAST_SUM: tl.constexpr = tl.constexpr(1e-12)


@triton.jit
def _sign(x):
    # Of −0 it is +0, of NaN a NaN.
    return tl.where(x > 0.0, 1.0, tl.where(x < 0.0, -1.0, x + 0.0))


@triton.jit
def _clipped(tau, per_model):
    return least(greatest(tl.abs(tau), per_model[0]), per_model[1])


@triton.jit
def _normal(tau, per_model):
    """The clipped magnitude normalised to [0, 1]; 0 where there is no range."""
    span = per_model[1] - per_model[0]
    divisor = tl.broadcast_to(tl.where(span == 0.0, 1.0, span), tau.shape)
    return tl.where(span == 0.0, 0.0, tl.div_rn(_clipped(tau, per_model) - per_model[0], divisor))


@triton.jit
def _normals(tau, per_model, N: tl.constexpr):
    normals = ()
    for i in tl.static_range(N):
        normals += (_normal(tau[i], per_model[i]),)
    return normals


@triton.jit
def _signed(tau, normals, N: tl.constexpr):
    signed = ()
    for i in tl.static_range(N):
        signed += (_sign(tau[i]) * normals[i],)
    return signed


@triton.jit
def _rivals(tau, signed, N: tl.constexpr, FORM: tl.constexpr):
    """What a task's vector is held against: a sum over the tasks, or each of them."""
    if FORM == 1:
        return (ordered_sum(tau, N),)
    elif FORM == 2:
        return (ordered_sum(signed, N),)
    else:
        return signed


@triton.jit
def _score(tau, normal, signed, rivals, N: tl.constexpr, FORM: tl.constexpr):
    """``β_i = RN(exp(N·(m² − 1))·agreement)``."""
    held = tau if FORM < 3 else signed
    if FORM < 3:
        agreement = tanh(held * rivals[0])
    else:
        agreement = tl.zeros(tau.shape, tl.float32)
        for j in tl.static_range(N):
            agreement += tanh(held * rivals[j])
    return exp(N * (normal * normal - 1.0)) * agreement


@triton.jit
def pcb_score(base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr):
    """``β`` of one task."""
    tau = task_vectors(base, models, N)
    normals = _normals(tau, per_model, N)
    signed = _signed(tau, normals, N)
    own = tau[0]
    normal = normals[0]
    own_signed = signed[0]
    for i in tl.static_range(1, N):
        own = tl.where(integers[0] == i, tau[i], own)
        normal = tl.where(integers[0] == i, normals[i], normal)
        own_signed = tl.where(integers[0] == i, signed[i], own_signed)
    return _score(own, normal, own_signed, _rivals(tau, signed, N, VARIANT[0]), N, VARIANT[0])


@triton.jit
def pcb(base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr):
    """``δ = RN(λ·RN(Σ RN(RN(w_i·a_i)·S_i) / max(Σ S_i, 1e-12)))`` with a_i the clipped τ_i, both sums in order.

    ``S_i = (max(β_i, least) − least)/(greatest − least)``, 0 where these are equal, no more than 1.
    """
    tau = task_vectors(base, models, N)
    normals = _normals(tau, per_model, N)
    signed = _signed(tau, normals, N)
    rivals = _rivals(tau, signed, N, VARIANT[0])
    total = tl.zeros(base.shape, tl.float32)
    weight = tl.zeros(base.shape, tl.float32)
    for i in tl.static_range(N):
        low = per_model[i][3]
        high = per_model[i][4]
        span = high - low
        score = least(greatest(_score(tau[i], normals[i], signed[i], rivals, N, VARIANT[0]), low), high)
        divisor = tl.broadcast_to(tl.where(span == 0.0, 1.0, span), score.shape)
        balanced = tl.where(span == 0.0, 0.0, tl.div_rn(score - low, divisor))
        total += (per_model[i][2] * (_sign(tau[i]) * _clipped(tau[i], per_model[i]))) * balanced
        weight += balanced
    return shared[0] * tl.div_rn(total, greatest(weight, _LEAST_SUM))
