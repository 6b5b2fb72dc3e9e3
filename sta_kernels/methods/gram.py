"""Dots and squared norms of models as vectors: the statistics of methods that work with lengths and angles.

Products are rounded to float32 and added up in float64 in the fixed order of tier B: so entries below 1e-19 have no
length, and a cosine is known to 2⁻²³.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from typing import Any, TypeVar

import numpy as np

from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.formula import Formula, FormulaSource
from sta_kernels.methods.base import Operands
from sta_kernels.methods.statistics import Statistic, Sum
from sta_kernels.methods.subjects import OfRole

Array = np.ndarray[Any, Any]
_T = TypeVar("_T")

BASE = -1
"""The base, among indices of models."""
_UNCERTAIN = 2.0**-23
"""A cosine this near to 1 or −1 may be just that: products in float32 do not tell."""


@dataclass(frozen=True)
class Product:
    """Entrywise product of two models, or of their task vectors; see :class:`~sta_kernels.methods.subjects.Subject`.

    Attributes:
        first: index of a model, or :data:`BASE`.
        second: another, or the same.
        centred: of the task vectors, where there is a base.
    """

    first: int
    second: int
    centred: bool = False

    @property
    def task(self) -> int:
        """Model that is named where a sum is refused."""
        return max(self.first, self.second, 0)

    def source(self, operands: Operands) -> FormulaSource:
        """Its values over the operands of a segment or tile."""
        origin = operands.base if self.centred else None
        models = tuple(_operand(operands, index) for index in dict.fromkeys((self.first, self.second)))
        formula = Formula("product", (int(origin is not None),))
        return FormulaSource(formula, models, origin, offset=operands.offset)

    def reads(self, of_role: OfRole[_T]) -> list[_T]:
        """The operands among all of a job's."""
        with_base = self.centred or BASE in (self.first, self.second)
        models = [of_role("model")[index] for index in (self.first, self.second) if index != BASE]
        return [*(of_role("base") if with_base else ()), *models]


def _operand(operands: Operands, index: int) -> Buffer:
    if index != BASE:
        return operands.models[index]
    assert operands.base is not None
    return operands.base


def pairs(points: Sequence[int]) -> list[tuple[int, int]]:
    """Every two points, and each with itself."""
    return list(combinations_with_replacement(points, 2))


def gram_statistics(points: Sequence[int], *, centred: bool = False) -> tuple[Statistic, ...]:
    """The sums that :func:`gram` takes.

    Args:
        points: indices of models, or :data:`BASE`.
        centred: see :class:`Product`.
    """
    return tuple(Sum(Product(first, second, centred)) for first, second in pairs(points))


def gram(sums: Sequence[float | Array], n_points: int) -> Array:
    """The symmetric matrix of dots; of vectors that may well be collinear, as if they were.

    Tensors of few entries have opposites often, and an arc between opposites would make much of rounding.

    Args:
        sums: in the order of :func:`pairs`; numbers, or arrays of one per row.
        n_points: n.

    Returns:
        float64 [n, n, R]; R is 1 for numbers.
    """
    columns = [np.atleast_1d(np.asarray(total, np.float64)) for total in sums]
    matrix = np.empty((n_points, n_points, columns[0].size), np.float64)
    for (i, j), column in zip(pairs(range(n_points)), columns, strict=True):
        matrix[i, j] = matrix[j, i] = column
    lengths = norms(matrix)
    for i, j in combinations(range(n_points), 2):
        size = lengths[i] * lengths[j]
        collinear = np.abs(matrix[i, j]) > (1 - _UNCERTAIN) * size
        matrix[i, j] = matrix[j, i] = np.where(collinear, np.copysign(size, matrix[i, j]), matrix[i, j])
    return matrix


def norms(dots: Array) -> Array:
    """Lengths: [n, n, R] to [n, R]."""
    return np.asarray(np.sqrt(np.einsum("iir->ir", dots)))


def cosine(dots: Array, lengths: Array, i: int, j: int) -> Array:
    """Of the angle between two points, by the lengths given; 0 where one has none.

    Args:
        dots: [n, n, R].
        lengths: [n, R].
        i: one point.
        j: another.

    Returns:
        [R], in [−1, 1].
    """
    size = lengths[i] * lengths[j]
    return np.asarray(np.clip(np.divide(dots[i, j], size, out=np.zeros_like(size), where=size > 0), -1.0, 1.0))
