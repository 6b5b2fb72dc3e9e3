"""Nearswap: the other model where it is near the base, and ever less of it the farther off it is.

See :mod:`sta_kernels.kernels.reference.formulas.nearswap` for the parameters.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sta_kernels.kernels.triton.primitives import greatest, least

_LEAST: tl.constexpr = tl.constexpr(1e-6)


@triton.jit
def nearswap(base, models, importances, index, shared, per_model, integers, N: tl.constexpr, VARIANT: tl.constexpr):
    """``δ = RN(ω·τ)`` with ``ω = RN(t / max(|τ|, 1e-6))``, cut to [0, 1]."""
    tau = models[0] - base
    share = tl.div_rn(tl.broadcast_to(shared[0], base.shape), greatest(tl.abs(tau), _LEAST))
    return least(greatest(share, 0.0), 1.0) * tau
