"""Products of two operands, whose sums are the dots and squared norms of models or task vectors."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def product(base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr):
    """``RN(θ_i·θ_j)``, or ``RN(τ_i·τ_j)``, of the first and the last model, which may be one and the same."""
    if VARIANT[0]:
        return (models[0] - base) * (models[N - 1] - base)
    else:
        return models[0] * models[N - 1]
