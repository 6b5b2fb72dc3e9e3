"""Arcee Fusion (mergekit): take from the other model what changed most, weighed by how its rows diverge."""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.literal.common import Array, Ratio, floor_of

_SMOOTH = 1e-8


def divergence_literal(base: Array, other: Array) -> Array:
    """``K = Σ p·log(p/q)`` of the softmaxes along the last axis, 1e-8 added to each probability.

    Args:
        base: b, [..., n].
        other: v, same shape.

    Returns:
        float64 [..., 1].
    """
    p, q = _softmax(other) + _SMOOTH, _softmax(base) + _SMOOTH
    return (p * np.log(p / q)).sum(axis=-1, keepdims=True)


def quartile_literal(values: Array, q: Ratio) -> float:
    """``sorted[⌊q·(n − 1)⌋]``, counted from 0, without interpolation.

    Args:
        values: any shape, n entries.
        q: in [0, 1].

    Returns:
        One of the values.
    """
    return float(np.sort(values, axis=None)[floor_of(q, values.size - 1)])


def arcee_fusion_literal(base: Array, other: Array) -> Array:
    """``b + (v − b)·[I ≥ median + 1.5·(q3 − q1)]``, ``I = |v − b|·K``.

    Quartiles are those of all of I; mergekit samples tensors of more than a million entries.

    Args:
        base: b, one tensor; a vector is one row.
        other: v, same shape.

    Returns:
        float64, same shape.
    """
    start, end = np.asarray(base, np.float64), np.asarray(other, np.float64)
    importance = np.abs(end - start) * divergence_literal(np.atleast_1d(start), np.atleast_1d(end))
    low, median, high = (quartile_literal(importance, q) for q in ("0.25", "0.5", "0.75"))
    taken = importance >= median + 1.5 * (high - low)
    return np.where(taken.reshape(start.shape), end, start)


def _softmax(values: Array) -> Array:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
