"""Reductions over one tensor: range, sum in a fixed order (tier B), mean, and the normalisers made of them."""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.dtypes import Array
from sta_kernels.kernels.reference.order import NAN_KEY, keys_exact, value_of_key_exact

LEAF = 4096
"""Elements per leaf of a tier-B sum."""

_LANES = 32


def range_literal(values: Array) -> tuple[float, float]:
    """(min, max).

    Args:
        values: any shape, at least one element.

    Returns:
        Two floats; both NaN where the values hold one.
    """
    values = np.asarray(values, np.float64)
    return float(values.min()), float(values.max())


def mean_literal(values: Array) -> float:
    """Arithmetic mean, in float64.

    Args:
        values: any shape, at least one element.

    Returns:
        The mean.
    """
    return float(np.mean(np.asarray(values, np.float64)))


def range_exact(values: Array, low: float = np.inf, high: float = -np.inf) -> tuple[float, float]:
    """Fold (min, max) of more values into a range so far; −0 is below +0, and a NaN makes both NaN for good.

    Args:
        values: float32, any shape; nothing changes where it is empty.
        low: least value so far.
        high: greatest value so far.

    Returns:
        Two floats, each a float32 value.
    """
    keys = keys_exact(values.reshape(-1))
    start = keys_exact(np.array((low, high), np.float32))
    if NAN_KEY in (start.max(), keys.max(initial=0)):
        return np.nan, np.nan
    least = min(start[0], keys.min(initial=NAN_KEY))
    greatest = max(start[1], keys.max(initial=0))
    return value_of_key_exact(int(least)), value_of_key_exact(int(greatest))


def leaf_sums_exact(values: Array) -> Array:
    """Tier-B sums of leaves of 4,096 elements: 32 lanes in float64, folded 16, 8, 4, 2, 1.

    From 0.0, lane l adds elements l, l + 32, … of its leaf in order; then lane l adds lane l + 16, and so on.

    Args:
        values: float32 [n], starting at a multiple of 4,096 elements of the flattened tensor.

    Returns:
        float64 [⌈n/4096⌉].
    """
    n_leaves = -(-len(values) // LEAF)
    # Adding the padding's +0 changes no lane: a sum that starts at +0 is never −0.
    padded = np.zeros(n_leaves * LEAF, np.float64)
    padded[: len(values)] = values
    rows = padded.reshape(n_leaves, LEAF // _LANES, _LANES)
    lanes: Array = np.zeros((n_leaves, _LANES), np.float64)
    for row in range(LEAF // _LANES):
        lanes += rows[:, row]
    width = _LANES // 2
    while width:
        lanes = lanes[:, :width] + lanes[:, width : 2 * width]
        width //= 2
    return lanes[:, 0]


def fold_exact(leaves: Array) -> float:
    """Tier-B sum of leaf sums: adjacent pairs, level by level; an odd last one is carried up unchanged.

    Args:
        leaves: float64 [m].

    Returns:
        The sum; 0.0 of none.
    """
    level = np.asarray(leaves, np.float64)
    if not level.size:
        return 0.0
    while len(level) > 1:
        pairs = level[: len(level) // 2 * 2]
        level = np.append(pairs[0::2] + pairs[1::2], level[len(pairs) :])
    return float(level[0])


def mean_exact(values: Array) -> np.float32:
    """Mean: the tier-B sum divided in float64, rounded to float32.

    Args:
        values: float32, any shape, at least one element.

    Returns:
        float32.
    """
    return np.float32(fold_exact(leaf_sums_exact(values.reshape(-1))) / values.size)


def minmax_normaliser_exact(values: Array) -> tuple[np.float32, np.float32]:
    """(shift, divisor) of eq. 13: the least value, and the range ``RN(mx − mn)``.

    Args:
        values: float32, any shape, at least one element.

    Returns:
        Two float32.
    """
    low, high = range_exact(values)
    return np.float32(low), np.float32(high) - np.float32(low)


def mean_normaliser_exact(values: Array) -> tuple[np.float32, np.float32]:
    """(shift, divisor) of mean normalisation: 0 and the mean.

    Args:
        values: float32, any shape, at least one element.

    Returns:
        Two float32.
    """
    return np.float32(0), mean_exact(values)
