"""Arcee Fusion: entries of the other model that changed much, in rows that changed much.

See :mod:`sta_kernels.kernels.reference.formulas.arcee_fusion` for the parameters.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def arcee_importance(
    base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr
):
    """``I = RN(|τ|·K)``."""
    return tl.abs(models[0] - base) * importances[0]


@triton.jit
def arcee_fusion(base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr):
    """``δ = τ`` where I reaches the threshold, else 0."""
    importance = arcee_importance(base, models, importances, index, shared, per_model, integers, N, VARIANT)
    return tl.where(importance >= shared[0], models[0] - base, 0.0)
