"""SCE: select entries by their variance over the tasks, weigh tasks by energy, erase minorities.

See :mod:`sta_kernels.kernels.reference.formulas.sce` for the parameters.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sta_kernels.kernels.triton.formulas.arithmetic import ordered_sum, quotient, task_vectors
from sta_kernels.kernels.triton.formulas.sparse_sum import above


@triton.jit
def variance(base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr):
    """Biased variance of τ over the tasks: ``RN(Σ RN(d_i·d_i)/N)``, ``d_i = RN(τ_i − RN(Σ τ/N))``, sums in order."""
    tau = task_vectors(base, models, N)
    count = tl.full(base.shape, N, tl.float32)
    mean = tl.div_rn(ordered_sum(tau, N), count)
    total = tl.zeros(base.shape, tl.float32)
    for i in tl.static_range(N):
        total += (tau[i] - mean) * (tau[i] - mean)
    return tl.div_rn(total, count)


@triton.jit
def _selected(base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr):
    spread = variance(base, models, importances, index, shared, per_model, integers, N, VARIANT)
    return above(spread, index, shared[1], integers[0])


@triton.jit
def sce_energy(base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr):
    """``RN(τ_i²)`` of one task where the entry is selected, 0 elsewhere."""
    chosen = _selected(base, models, importances, index, shared, per_model, integers, N, VARIANT)
    model = models[0]
    for i in tl.static_range(1, N):
        model = tl.where(integers[1] == i, models[i], model)
    return tl.where(chosen, (model - base) * (model - base), 0.0)


@triton.jit
def sce(base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr):
    """``δ = RN(λ·RN(Σ RN(w_i·τ_i) / Σ w_i))`` over the tasks of the majority sign, where selected; else 0."""
    chosen = _selected(base, models, importances, index, shared, per_model, integers, N, VARIANT)
    tau = task_vectors(base, models, N)
    negative = ordered_sum(tau, N) < 0.0
    total = tl.zeros(base.shape, tl.float32)
    weight = tl.zeros(base.shape, tl.float32)
    for i in tl.static_range(N):
        agrees = tl.where(negative, tau[i] < 0.0, tau[i] > 0.0)
        total = tl.where(agrees, total + per_model[i][0] * tau[i], total)
        weight = tl.where(agrees, weight + per_model[i][0], weight)
    return shared[0] * tl.where(chosen, quotient(total, weight), 0.0)
