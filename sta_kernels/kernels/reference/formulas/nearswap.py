"""Nearswap (mergekit): the other model where it is near the base, and ever less of it the farther off it is.

``shared``: t, the distance within which it is taken whole.
"""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.dtypes import Array
from sta_kernels.kernels.reference.formulas.arguments import Arguments

_LEAST = np.float32(1e-6)


def nearswap_exact(given: Arguments) -> Array:
    """``δ = RN(ω·τ)`` with ``ω = RN(t / max(|τ|, 1e-6))``, cut to [0, 1]."""
    tau = given.tau[0]
    share = given.shared[0] / np.maximum(np.abs(tau), _LEAST)
    return np.asarray(np.minimum(np.maximum(share, np.float32(0)), np.float32(1)) * tau)


FORMULAS = {"nearswap": nearswap_exact}
DELTAS = ("nearswap",)
