"""Task arithmetic in the trust region: entries that would hurt other tasks are left out.

See :mod:`sta_kernels.kernels.reference.formulas.trust_region` for the parameters.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sta_kernels.kernels.triton.formulas.arithmetic import task_vectors


@triton.jit
def conflict(base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr):
    """``Ω = Σ_i Σ_{j≠i} RN(|ḡ_i|·|τ_j|)``, i in order and j in order for each: a sum of what is never negative."""
    tau = task_vectors(base, models, N)
    total = tl.zeros(base.shape, tl.float32)
    for i in tl.static_range(N):
        sensitivity = tl.abs(tau[i]) if VARIANT[0] else importances[i]
        for j in tl.static_range(N):
            if i != j:
                total += sensitivity * tl.abs(tau[j])
    return total


@triton.jit
def trust_region(base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr):
    """``δ = RN(λ·Σ RN(w_i·τ_i))`` where Ω is below the threshold, else 0."""
    omega = conflict(base, models, importances, index, shared, per_model, integers, N, VARIANT)
    total = tl.zeros(base.shape, tl.float32)
    for i in tl.static_range(N):
        total += per_model[i][0] * (models[i] - base)
    return tl.where(omega < shared[1], shared[0] * total, 0.0)
