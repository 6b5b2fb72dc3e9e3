"""Parameter competition balancing: scores from each task's own magnitudes and from their agreement.

See :mod:`sta_kernels.kernels.reference.formulas.pcb` for the parameters.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sta_kernels.kernels.triton.formulas.arithmetic import ordered_sum, task_vectors
from sta_kernels.kernels.triton.formulas.elementary import exp, tanh, tanh_unit
from sta_kernels.kernels.triton.primitives import greatest, least

_LEAST_SUM: tl.constexpr = tl.constexpr(1e-12)
_GREATEST: tl.constexpr = tl.constexpr(3.4028234663852886e38)


@triton.jit
def _reciprocal(span):
    """``RN(1/span)``, at most the greatest float32; 0 of 0."""
    whole = tl.div_rn(1.0, tl.where(span == 0.0, 1.0, span))
    return tl.where(span == 0.0, 0.0, least(whole, _GREATEST))


@triton.jit
def _signed(size, tau):
    """The size with the sign of τ; 0 where that is 0."""
    return tl.where(tau == 0.0, 0.0, tl.where(tau < 0.0, -size, size))


@triton.jit
def _size(tau, per_model):
    return least(greatest(tl.abs(tau), per_model[0]), per_model[1])


@triton.jit
def _normalised(tau, per_model, N: tl.constexpr):
    """``z``: task vectors clipped and brought to [−1, 1]."""
    z = ()
    for i in tl.static_range(N):
        factor = _reciprocal(per_model[i][1] - per_model[i][0])
        z += (_signed((_size(tau[i], per_model[i]) - per_model[i][0]) * factor, tau[i]),)
    return z


@triton.jit
def _rivals(tau, z, N: tl.constexpr, FORM: tl.constexpr):
    """What a task's vector is held against: a sum over the tasks, or each of them."""
    if FORM == 1:
        return (ordered_sum(tau, N),)
    elif FORM == 2:
        return (ordered_sum(z, N),)
    else:
        return z


@triton.jit
def _score(tau, z, rivals, N: tl.constexpr, FORM: tl.constexpr):
    """``β_i = RN(exp(N·(z² − 1))·agreement)``."""
    if FORM < 3:
        agreement = tanh(tau * rivals[0])
    else:
        agreement = tl.zeros(tau.shape, tl.float32)
        for j in tl.static_range(N):
            agreement += tanh_unit(z * rivals[j])
    return exp(N * (z * z - 1.0)) * agreement


@triton.jit
def pcb_score(base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr):
    """``β`` of one task."""
    tau = task_vectors(base, models, N)
    z = _normalised(tau, per_model, N)
    own = tau[0]
    own_z = z[0]
    for i in tl.static_range(1, N):
        own = tl.where(integers[0] == i, tau[i], own)
        own_z = tl.where(integers[0] == i, z[i], own_z)
    return _score(own, own_z, _rivals(tau, z, N, VARIANT[0]), N, VARIANT[0])


@triton.jit
def pcb(base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr):
    """``δ = RN(λ·RN(Σ RN(RN(w_i·a_i)·S_i) / max(Σ S_i, 1e-12)))`` with a_i the clipped τ_i, both sums in order.

    ``S_i = RN(RN(max(β_i, least) − least)·RN(1/(greatest − least)))``, 0 where these are equal, no more than 1.
    """
    tau = task_vectors(base, models, N)
    z = _normalised(tau, per_model, N)
    rivals = _rivals(tau, z, N, VARIANT[0])
    total = tl.zeros(base.shape, tl.float32)
    weight = tl.zeros(base.shape, tl.float32)
    for i in tl.static_range(N):
        low = per_model[i][3]
        high = per_model[i][4]
        span = high - low
        score = least(greatest(_score(tau[i], z[i], rivals, N, VARIANT[0]), low), high)
        balanced = tl.where(span == 0.0, 0.0, (score - low) * _reciprocal(span))
        total += (per_model[i][2] * _signed(_size(tau[i], per_model[i]), tau[i])) * balanced
        weight += balanced
    return shared[0] * tl.div_rn(total, greatest(weight, _LEAST_SUM))
