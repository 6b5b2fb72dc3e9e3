"""Nearswap (mergekit): take the other model where it is near the base."""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.literal.common import Array

_LEAST = 1e-6


def nearswap_literal(base: Array, other: Array, t: float) -> Array:
    """``ω·v + (1 − ω)·a``, ``ω = t/max(|a − v|, 1e-6)`` cut to [0, 1]: v itself within t of the base.

    Args:
        base: a, any shape.
        other: v, same shape.
        t: distance; 0 and below leaves the base.

    Returns:
        float64, same shape.
    """
    start, end = np.asarray(base, np.float64), np.asarray(other, np.float64)
    share = np.clip(t / np.maximum(np.abs(start - end), _LEAST), 0.0, 1.0)
    return share * end + (1 - share) * start
