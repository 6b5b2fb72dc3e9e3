"""From a quantile to a rank: the one place where p becomes k, in exact arithmetic."""

from __future__ import annotations

import functools
from fractions import Fraction


@functools.lru_cache(maxsize=4096)
def exact(value: float) -> Fraction:
    """A number as the decimal that was written, not as the nearest binary fraction."""
    return Fraction(str(value))


def check_quantile(p: float) -> float:
    """Return p, or raise ValueError where it lies outside [0, 1] (NaN included)."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"expected a number in [0, 1], got {p}")
    return p


@functools.lru_cache(maxsize=65536)
def rank_of_quantile(p: float, n: int) -> int:
    """Rank ``k = ⌊1 + (n − 1)·p⌋`` whose value STA's p-quantile threshold cannot be told apart from (eq. 14–17).

    "Above the interpolated p-quantile" is the same as "above the k-th smallest", so the mask needs no interpolation.
    p is taken as the decimal that was written, not as the nearest binary fraction: ``1 + (91 − 1)·0.7`` is 64, but
    63.99… in float64.

    Args:
        p: quantile in [0, 1].
        n: number of values ranked, at least 1.

    Returns:
        k in 1..n.

    Raises:
        ValueError: p outside [0, 1], or n below 1.
    """
    check_quantile(p)
    if n < 1:
        raise ValueError(f"a quantile of {n} values is not defined")
    return int(1 + (n - 1) * exact(p))
