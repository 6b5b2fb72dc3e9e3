"""Fisher-weighted averaging: each parameter by how sure every model is of it.

See :mod:`sta_kernels.kernels.reference.formulas.fisher` for the parameters.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sta_kernels.kernels.triton.formulas.arithmetic import quotient


@triton.jit
def fisher(base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr):
    """``θ = RN(Σ RN(v_i·θ_i) / Σ v_i)`` with ``v_i = RN(c_i·RN(F_i + ε_i))``; with ``v_i = c_i`` where all are 0."""
    weights = ()
    known = tl.full(base.shape, False, tl.int1)
    for i in tl.static_range(N):
        weights += (per_model[i][0] * (importances[i] + per_model[i][1]),)
        known = known | (weights[i] != 0.0)
    total = tl.zeros(base.shape, tl.float32)
    weight = tl.zeros(base.shape, tl.float32)
    for i in tl.static_range(N):
        own = tl.where(known, weights[i], per_model[i][0])
        total += own * models[i]
        weight += own
    return quotient(total, weight)
