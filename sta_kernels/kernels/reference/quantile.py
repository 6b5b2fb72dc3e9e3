"""The quantile that selects (eq. 15, 16): its position, its rank, its interpolated value."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from sta_kernels.kernels.reference.dtypes import Array


def position_literal(p: float | str, n: int) -> Fraction:
    """Position of the p-quantile among n sorted values, ``L = 1 + (n − 1)·p`` (eq. 15).

    Args:
        p: quantile in [0, 1], read as the decimal that it prints as: 0.7 is 7/10.
        n: number of values, at least 1.

    Returns:
        L, 1-based, exact.
    """
    return 1 + (n - 1) * Fraction(str(p))


def quantile_literal(values: Array, p: float | str) -> Array:
    """Interpolated quantile along the first axis, ``T = s_k + (L − k)(s_{k+1} − s_k)`` (eq. 16).

    Args:
        values: [n, …], no NaN; computed in float64. ``s_{n+1}``, which p = 1 indexes, is ``s_n``.
        p: quantile in [0, 1].

    Returns:
        T, float64 […].
    """
    ordered = np.sort(np.asarray(values, np.float64), axis=0)
    n = len(ordered)
    position = position_literal(p, n)
    k = int(position)
    upper = ordered[min(k, n - 1)]
    return ordered[k - 1] + float(position - k) * (upper - ordered[k - 1])


def rank_exact(p: float | str, n: int) -> int:
    """Rank whose value decides, ``k = ⌊1 + (n − 1)·p⌋``: ``x > T`` is the same as ``x > s_k``.

    T lies in [s_k, s_{k+1}) where these differ and equals s_k otherwise, so interpolation decides nothing, and the
    floor is taken of the exact rational: in float64, p = 0.7 and n = 91 would give 63 for 64.

    Args:
        p: quantile in [0, 1].
        n: number of values, at least 1.

    Returns:
        k in 1..n.
    """
    return int(position_literal(p, n))
