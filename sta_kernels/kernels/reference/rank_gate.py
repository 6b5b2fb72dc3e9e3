"""Random gates that favour what is great within its row (DELLA, arXiv 2406.11617).

An entry of rank r, 0 for the least, among the n of its row is kept where its 32-bit draw (:mod:`.philox`) is below
``T = low + (high − low)·r ÷ (n − 1)`` in whole numbers: with a chance that rises evenly from low/2³² to high/2³². In a
row of one entry ``T = (low + high) ÷ 2``.
"""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.dtypes import Array

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_INFINITY = np.uint32(0x7F800000)


def ranks_exact(tau: Array) -> Array:
    """Rank of each entry by magnitude within its row, from 0; of equal ones, the lowest index ranks highest.

    NaN is equal to NaN, and greater than infinity.

    Args:
        tau: float32 [rows, n].

    Returns:
        int64 [rows, n].
    """
    magnitude = tau.view(np.uint32) & _MAGNITUDE
    key = np.where(magnitude > _INFINITY, np.uint32(0), _MAGNITUDE - magnitude)
    falling = np.argsort(key, axis=1, kind="stable")
    ranks = np.empty(tau.shape, np.int64)
    n = tau.shape[1]
    np.put_along_axis(ranks, falling, np.arange(n - 1, -1, -1, dtype=np.int64)[None], axis=1)
    return ranks


def thresholds_exact(ranks: Array, n: int, chances: tuple[int, int]) -> Array:
    """T for ranks in rows of n entries; uint64, of the same shape.

    Args:
        ranks: int64.
        n: entries of a row, at most 2³².
        chances: low and high, low no greater than high and that below 2³², or both 2³².
    """
    low, high = chances
    if n == 1:
        return np.full(ranks.shape, (low + high) // 2, np.uint64)
    return np.uint64(low) + np.uint64(high - low) * ranks.astype(np.uint64) // np.uint64(n - 1)


def gate_exact(thresholds: Array, draws: Array, scaled: bool) -> Array:
    """1, or ``RN(2³²/RN(T))`` where scaled, for what is kept, 0 for the rest; float32 of the same shape.

    Args:
        thresholds: uint64.
        draws: uint64, below 2³².
        scaled: divide by the chance.
    """
    kept = draws < thresholds
    if not scaled:
        return kept.astype(np.float32)
    chances = np.where(kept, thresholds, np.uint64(1)).astype(np.float32)
    return np.where(kept, np.float32(2.0**32) / chances, np.float32(0))
