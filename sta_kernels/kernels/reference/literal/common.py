"""What the methods share: task vectors, counts, orders of magnitude."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Union

import numpy as np

Array = np.ndarray[Any, Any]
Ratio = Union[float, str, Fraction]  # noqa: UP007 - a type of values too
"""A share, read as the decimal that it prints as: 0.7 is 7/10; ``"1/3"`` and fractions are exact."""


def rational(ratio: Ratio) -> Fraction:
    """The share that a number stands for, exact: ``int(1000·(1 − 0.8))`` would be 199."""
    return Fraction(str(ratio))


def floor_of(ratio: Ratio, n: int) -> int:
    """⌊ratio·n⌋, by exact rationals."""
    return int(rational(ratio) * n)


def ratios(ratio: Ratio | Sequence[Ratio], n: int) -> list[Ratio]:
    """One share per task, where one may stand for all."""
    return list(ratio) if isinstance(ratio, (tuple, list)) else [ratio] * n  # type: ignore[list-item]


def task_vectors(base: Array, finetuned: Array) -> tuple[Array, Array]:
    """θ0 and ``τ_i = θ_i − θ0``, in float64.

    Args:
        base: θ0, [...].
        finetuned: θ_i, [N, ...].

    Returns:
        θ0 [...] and τ [N, ...].
    """
    base = np.asarray(base, np.float64)
    return base, np.asarray(finetuned, np.float64) - base


def per_task(values: float | Sequence[float] | Array | None, like: Array, default: float = 1.0) -> Array:
    """One number per task, shaped to scale ``like``.

    Args:
        values: one for all tasks, or one per task; None: the default for all.
        like: [N, ...].
        default: where there are no values.

    Returns:
        float64 [N, 1, ...], as many axes as ``like``.
    """
    given = np.asarray(default if values is None else values, np.float64)
    return np.broadcast_to(given, len(like)).reshape(-1, *(1,) * (like.ndim - 1))


def by_magnitude(values: Array) -> Array:
    """Indices of the flattened entries, greatest magnitude first, among equals the lowest index first.

    Args:
        values: any shape.

    Returns:
        int [size].
    """
    return np.argsort(-np.abs(values).ravel(), kind="stable")


def minmax(values: Array) -> Array:
    """``(x − min)/(max − min)``; 0 where all are equal.

    Args:
        values: any shape, at least one element.

    Returns:
        Same shape, in [0, 1].
    """
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if low < high else np.zeros_like(values)
