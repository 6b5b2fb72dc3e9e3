"""TALL masks and Consensus: the summed task vector where it serves enough of the tasks.

See :mod:`sta_kernels.kernels.reference.formulas.agreement` for the parameters.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sta_kernels.kernels.triton.formulas.arithmetic import ordered_sum, task_vectors


@triton.jit
def agreement(base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr):
    """``δ = RN(λ·τ_M)`` where at least k of the asked masks ``[|τ_t| > RN(λ_t·|RN(τ_M − τ_t)|)]`` hold, else 0."""
    tau = task_vectors(base, models, N)
    total = ordered_sum(tau, N)
    agreeing = tl.zeros(base.shape, tl.int32)
    for i in tl.static_range(N):
        mask = tl.abs(tau[i]) > per_model[i][0] * tl.abs(total - tau[i])
        agreeing += tl.where(mask, tl.where(per_model[i][1] != 0.0, 1, 0), 0)
    return tl.where(agreeing >= integers[0], shared[0] * total, 0.0)
