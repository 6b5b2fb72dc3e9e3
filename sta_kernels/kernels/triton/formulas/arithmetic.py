"""What formulas share: sums in a stated order, and the quotient that a divisor of 0 leaves as it is."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def task_vectors(base, models, N: tl.constexpr):
    """``τ_i = RN(θ_i − θ0)``."""
    tau = ()
    for i in tl.static_range(N):
        tau += (models[i] - base,)
    return tau


@triton.jit
def ordered_sum(terms, N: tl.constexpr):
    """Sum over the models in their order, from +0, each step rounded."""
    total = tl.zeros(terms[0].shape, tl.float32)
    for i in tl.static_range(N):
        total += terms[i]
    return total


@triton.jit
def quotient(dividend, divisor):
    """Rounded quotient; a divisor of 0 counts as 1."""
    return tl.div_rn(dividend, tl.broadcast_to(tl.where(divisor == 0.0, 1.0, divisor), dividend.shape))
