"""Sums whose factors differ from position to position: those of rows or columns, spread over their entries.

See :mod:`sta_kernels.kernels.reference.formulas.scaled_sum` for the parameters.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def scaled_sum(base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr):
    """``θ = Σ RN(f_i·θ_i)``, or ``δ = Σ RN(f_i·τ_i)``, in order."""
    total = tl.zeros(base.shape, tl.float32)
    for i in tl.static_range(N):
        total += importances[i] * (models[i] - base if VARIANT[0] else models[i])
    return total
