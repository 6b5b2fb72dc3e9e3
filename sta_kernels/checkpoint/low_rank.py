"""A product of two thin factors, added to a weight while it is read.

Each entry is ``RN(f32(W) + RN(scale · a))`` with ``a = Σ_k RN(B[i, k] · A[k, j])``, added up in float32 from +0 in the
order of k: the same bits whatever range is read. RN is rounding to float32, nearest even.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from sta_kernels.checkpoint.entry import TensorEntry
from sta_kernels.checkpoint.positioned import byte_view
from sta_kernels.kernels.reference import dtypes

Array = np.ndarray[Any, Any]
Read = Callable[[TensorEntry, int, memoryview], None]
"""Fills a view with a tensor's bytes from an offset on."""

BLOCK = 1 << 16
"""Most elements that are read at a time, and that are held of the sum."""
PANEL = 1 << 18
"""Most elements of a factor that are kept as one, unless its rank is higher."""

_FORMATS: dict[str, tuple[Any, Callable[[Array], Array]]] = {
    "F32": (np.float32, lambda values: values),
    "BF16": (np.uint16, dtypes.bfloat16_to_float32),
    "F16": (np.float16, dtypes.float16_to_float32),
    "F64": (np.float64, dtypes.float64_to_float32),
}
READABLE = frozenset(_FORMATS)


@dataclass(frozen=True, eq=False)
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
        values = np.empty((rows[1] - rows[0], columns[1] - columns[0]), np.float32)
        if values.shape[1] == self.columns:
            self._fill(values.reshape(-1), rows[0] * self.columns)
        else:
            for row, line in enumerate(values, rows[0]):
                self._fill(line, row * self.columns + columns[0])
        return values

    def _fill(self, values: Array, start: int) -> None:
        """Consecutive elements, a block at a time."""
        for first in range(0, len(values), BLOCK):
            some = values[first : first + BLOCK]
            some[:] = read_float32(self.read, self.entry, start + first, len(some))


class Panels:
    """Parts of factors as float32, those that were used last; for all threads.

    Args:
        limit: most bytes that are kept.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Matrix, int], Array] = OrderedDict()
        self._held = 0

    def get(self, matrix: Matrix, index: int, make: Callable[[], Array]) -> Array:
        """A part of a factor by its number; made where it is not kept, at times by two threads at once."""
        key = (matrix, index)
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        made = make()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._held += made.nbytes
            while self._held > self.limit:
                self._held -= self._kept.popitem(last=False)[1].nbytes
        return made

    def forget(self, matrices: Iterable[Matrix]) -> None:
        """Drop all parts of some factors."""
        gone = set(matrices)
        with self._lock:
            for key in [key for key in self._kept if key[0] in gone]:
                self._held -= self._kept.pop(key).nbytes


PANELS = Panels(8 << 20)
"""Of all adapters of the process, so that their number does not add to the memory of a merge."""


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
            # Columns outside: what is read of the wide factor serves all rows, even where it cannot be kept.
            for these, right in self._panels(self.b if self.transposed else self.a, columns):
                for some, left in self._panels(self.a if self.transposed else self.b, rows):
                    part = table[some[0] - rows[0] : some[1] - rows[0], these[0] - columns[0] : these[1] - columns[0]]
                    self._add_product(part, left, right)

    def _panels(self, factor: Matrix, wanted: tuple[int, int]) -> Iterator[tuple[tuple[int, int], Array]]:
        """What a factor has for some rows or columns of the weight, as rank by their number, with their range."""
        rank = self.a.rows
        extent = self.a.columns if factor is self.a else self.b.rows
        width = max(PANEL // rank, 1)
        for index in range(wanted[0] // width, -(-wanted[1] // width)):
            first, last = index * width, min((index + 1) * width, extent)
            panel = PANELS.get(factor, index, partial(self._read, factor, first, last))
            some = max(first, wanted[0]), min(last, wanted[1])
            yield some, panel[:, some[0] - first : some[1] - first]

    def _read(self, factor: Matrix, first: int, last: int) -> Array:
        rank = (0, self.a.rows)
        if factor is self.a:
            return factor.part(rank, (first, last))
        return np.ascontiguousarray(factor.part((first, last), rank).T)

    def _add_product(self, table: Array, left: Array, right: Array) -> None:
        """Add the scaled product of two panels, block by block."""
        scale = np.float32(self.scale)
        for rows, columns in _blocks(*table.shape):
            total = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.float32)
            term = np.empty_like(total)
            for down, along in zip(left[:, rows, None], right[:, columns], strict=True):
                np.multiply(down, along, out=term)
                total += term
            total *= scale
            table[rows, columns] += total


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


def _blocks(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Cut a rectangle into blocks, as wide as can be."""
    wide = min(BLOCK, columns)
    high = max(BLOCK // wide, 1)
    for first in range(0, columns, wide):
        for row in range(0, rows, high):
            yield slice(row, min(row + high, rows)), slice(first, min(first + wide, columns))
