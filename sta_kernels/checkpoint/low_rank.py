"""A product of two thin factors, added to a weight while it is read.

Each entry is ``RN(f32(W) + RN(scale · a))`` with ``a = Σ_k RN(B[i, k] · A[k, j])``, added up in float32 from +0 in the
order of k: the same bits whatever range is read. RN is rounding to float32, nearest even.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sta_kernels.checkpoint.entry import TensorEntry
from sta_kernels.checkpoint.positioned import byte_view
from sta_kernels.kernels.reference import dtypes

Array = np.ndarray[Any, Any]
Read = Callable[[TensorEntry, int, memoryview], None]
"""Fills a view with a tensor's bytes from an offset on."""

BLOCK = 1 << 16
"""Most elements that are held at a time of the sum, and of each factor."""

_FORMATS: dict[str, tuple[Any, Callable[[Array], Array]]] = {
    "F32": (np.float32, lambda values: values),
    "BF16": (np.uint16, dtypes.bfloat16_to_float32),
    "F16": (np.float16, dtypes.float16_to_float32),
    "F64": (np.float64, dtypes.float64_to_float32),
}
READABLE = frozenset(_FORMATS)


@dataclass(frozen=True)
class Matrix:
    """A factor: rows of equal length, read by position as float32.

    Attributes:
        entry: of the tensor.
        read: of its file.
        rows: size of the first dimension.
        columns: of the others together.
    """

    entry: TensorEntry
    read: Read
    rows: int
    columns: int

    def part(self, rows: tuple[int, int], columns: tuple[int, int]) -> Array:
        """Some rows and columns; whole rows in one piece."""
        first, last = columns
        if (first, last) == (0, self.columns):
            values = read_float32(self.read, self.entry, rows[0] * self.columns, (rows[1] - rows[0]) * self.columns)
            return values.reshape(-1, self.columns)
        starts = (row * self.columns + first for row in range(*rows))
        return np.stack([read_float32(self.read, self.entry, start, last - first) for start in starts])


@dataclass(frozen=True)
class LowRank:
    """What is added to one weight, seen as a matrix of its first dimension by all others.

    Attributes:
        a: factor A, rank by inputs.
        b: factor B, outputs by rank.
        transposed: whether the weight has inputs first.
        scale: of the product.
    """

    a: Matrix
    b: Matrix
    transposed: bool
    scale: float

    @property
    def columns(self) -> int:
        """Of the weight."""
        return self.b.rows if self.transposed else self.a.columns

    def add(self, values: Array, start: int) -> None:
        """Add to consecutive elements of the flattened weight, in place.

        Args:
            values: float32.
            start: index of the first one.
        """
        for rows, columns in _rectangles(start, start + len(values), self.columns):
            begin = rows[0] * self.columns + columns[0] - start
            count = (rows[1] - rows[0]) * (columns[1] - columns[0])
            table = values[begin : begin + count].reshape(rows[1] - rows[0], -1)
            for some, these in _blocks(rows, columns, self.a.rows):
                part = table[some[0] - rows[0] : some[1] - rows[0], these[0] - columns[0] : these[1] - columns[0]]
                part += self._product(some, these)

    def _product(self, rows: tuple[int, int], columns: tuple[int, int]) -> Array:
        """Scaled product at some rows and columns of the weight."""
        rank = (0, self.a.rows)
        if self.transposed:
            left, right = self.a.part(rank, rows).T, self.b.part(columns, rank).T
        else:
            left, right = self.b.part(rows, rank), self.a.part(rank, columns)
        total = np.zeros((left.shape[0], right.shape[1]), np.float32)
        term = np.empty_like(total)
        for k in range(self.a.rows):
            np.multiply(left[:, k, None], right[k], out=term)
            total += term
        total *= np.float32(self.scale)
        return total


def read_float32(read: Read, entry: TensorEntry, start: int, count: int) -> Array:
    """Consecutive elements of a tensor as float32, rounded to nearest even where it holds more digits."""
    dtype, convert = _FORMATS[entry.dtype]
    raw = np.empty(count, dtype)
    if count:
        read(entry, start * raw.itemsize, byte_view(raw))
    return convert(raw)


def pieces(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most a block of elements, cut at its multiples."""
    while first < last:
        end = min(last, (first // BLOCK + 1) * BLOCK)
        yield first, end
        first = end


def _rectangles(start: int, stop: int, columns: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Rows and columns that a range of a flattened matrix covers: the end of a row, whole rows, the start of one."""
    row, inside = divmod(start, columns)
    if inside:
        yield (row, row + 1), (inside, min(columns, inside + stop - start))
        row += 1
    last, rest = divmod(stop, columns)
    if row < last:
        yield (row, last), (0, columns)
    if rest and row <= last:
        yield (last, last + 1), (0, rest)


def _blocks(
    rows: tuple[int, int], columns: tuple[int, int], rank: int
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Cut a rectangle so that neither a block nor its factors exceed :data:`BLOCK` elements."""
    wide = max(1, min(BLOCK // rank, columns[1] - columns[0]))
    high = max(1, min(BLOCK // rank, BLOCK // wide))
    for first in range(*columns, wide):
        for row in range(*rows, high):
            yield (row, min(row + high, rows[1])), (first, min(first + wide, columns[1]))
