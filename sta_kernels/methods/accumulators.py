"""Statistics on their way: they take in tiles in any order, from any thread, and may ask for further passes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from sta_kernels.kernels.backend import LEAF, Backend
from sta_kernels.kernels.formula import FormulaSource, Source
from sta_kernels.kernels.reference.environment import ieee_arithmetic

ALL_TIES = (1 << 63) - 1
"""A cut that no index reaches."""


Settle = Callable[[], None]
"""Takes in what kernels have left."""


class Accumulator(Protocol):
    """A statistic on its way; thread-safe."""

    result: Any
    """Valid once :meth:`end_of_pass` has returned True."""

    @property
    def stride(self) -> int | None:
        """Elements from one run of a sample to the next, where the next pass is to take one; else None."""

    @property
    def in_memory(self) -> bool:
        """Whether the next pass must show tiles as a whole."""

    @property
    def wanted(self) -> tuple[int, int] | None:
        """Elements that the next pass must show; None for all."""

    def take(self, backend: Backend, source: Source, offset: int, size: int, *, threads: int) -> Settle:
        """Call kernels on a tile of ``size`` elements that starts at element ``offset``, a multiple of 4,096.

        A backend that notes its calls makes them later, slice by slice, on a source of one slice. What is returned is
        to be called once they were made.
        """

    def end_of_pass(self) -> bool:
        """All tiles were seen. True when the result is final; False asks for another pass over the segment."""


def nothing(count: int) -> np.ndarray[Any, Any]:
    """Ranges of nothing, to be folded into."""
    return np.full((count, 2), (np.inf, -np.inf), np.float32)


def no_leaves(size: int) -> np.ndarray[Any, Any]:
    """Room for counts of each leaf."""
    return np.zeros(-(-size // LEAF), np.uint32)


def done() -> None:
    """Nothing is left to be taken in."""


class RangeAccumulator:
    """Minimum and maximum."""

    wanted = None
    stride: int | None = None
    in_memory = False

    def __init__(self) -> None:
        self._minmax = nothing(1)
        self._lock = threading.Lock()
        self.result: tuple[float, float] = (np.nan, np.nan)

    @ieee_arithmetic()
    def take(self, backend: Backend, source: Source, offset: int, size: int, *, threads: int) -> Settle:
        """See :class:`Accumulator`."""
        tile = nothing(1)
        backend.ranges([source], tile, None, threads=threads)
        return lambda: self.add(*tile[0])

    @ieee_arithmetic()
    def add(self, low: np.float32, high: np.float32) -> None:
        """Take in the range of a tile."""
        with self._lock:
            least, greatest = self._minmax[0]
            # NaN sticks; between equal zeros the sign decides, as within a tile.
            if np.isnan(low) or low < least or (low == least and np.signbit(low)):
                self._minmax[0, 0] = low
            if np.isnan(high) or high > greatest or (high == greatest and not np.signbit(high)):
                self._minmax[0, 1] = high

    @ieee_arithmetic()
    def end_of_pass(self) -> bool:
        """See :class:`Accumulator`."""
        self.result = (float(self._minmax[0, 0]), float(self._minmax[0, 1]))
        return True


class SumAccumulator:
    """Tier-B sum: leaf sums, folded once all are there.

    Args:
        extent: one more than the greatest offset of an element.
        settle: the result from the sum and the number of elements.
        n_elements: that are summed.
    """

    wanted = None
    stride: int | None = None
    in_memory = False

    def __init__(self, extent: int, settle: Callable[[float, int], float], n_elements: int) -> None:
        self._settle = settle
        self._count = n_elements
        self._leaves = np.zeros(-(-extent // LEAF), np.float64)
        self._backend: Backend | None = None
        self.result = settle(0.0, n_elements)

    @ieee_arithmetic()
    def take(self, backend: Backend, source: Source, offset: int, size: int, *, threads: int) -> Settle:
        """See :class:`Accumulator`."""
        backend.ranges([source], None, [self.leaves(backend, offset, size)], threads=threads)
        return done

    def leaves(self, backend: Backend, offset: int, size: int) -> np.ndarray[Any, Any]:
        """Where a backend is to leave the sums of a tile."""
        self._backend = backend
        first = offset // LEAF
        return self._leaves[first : first + -(-size // LEAF)]

    @ieee_arithmetic()
    def end_of_pass(self) -> bool:
        """See :class:`Accumulator`."""
        if self._backend is not None:
            self.result = self._settle(self._backend.fold(self._leaves), self._count)
        return True


_DIGITS = (11, 11, 10)
HISTOGRAM_BYTES = (1 << max(_DIGITS)) * 8


class SelectAccumulator:
    """The k-th smallest: a histogram of leading digits a pass."""

    wanted = None
    in_memory = False

    def __init__(self, k: int) -> None:
        self._rank = k
        self._prefix = 0
        self._bits = 0
        self._pass = 0
        self._counts = np.zeros(1 << _DIGITS[0], np.uint64)
        self._lock = threading.Lock()
        self.result = float("nan")

    @property
    def stride(self) -> int | None:
        """See :class:`Accumulator`."""
        return None

    def take(self, backend: Backend, source: Source, offset: int, size: int, *, threads: int) -> Settle:
        """See :class:`Accumulator`."""
        digit_bits = _DIGITS[self._pass]
        counts = np.zeros(1 << digit_bits, np.uint64)
        backend.histogram(
            source, prefix=self._prefix, prefix_bits=self._bits, digit_bits=digit_bits, counts=counts, threads=threads
        )

        def settle() -> None:
            with self._lock:
                self._counts += counts

        return settle

    @ieee_arithmetic()
    def end_of_pass(self) -> bool:
        """See :class:`Accumulator`."""
        cumulative = np.cumsum(self._counts)
        if self._rank > cumulative[-1]:
            return True
        digit = int(np.searchsorted(cumulative, self._rank, side="left"))
        if digit:
            self._rank -= int(cumulative[digit - 1])
        digit_bits = _DIGITS[self._pass]
        self._prefix = (self._prefix << digit_bits) | digit
        self._bits += digit_bits
        self._pass += 1
        if self._pass < len(_DIGITS):
            self._counts = np.zeros(1 << _DIGITS[self._pass], np.uint64)
            return False
        self.result = key_to_float(self._prefix)
        return True


class GreaterAccumulator:
    """Count of what is greater than a value."""

    wanted = None
    stride: int | None = None
    in_memory = False

    def __init__(self, value: float) -> None:
        self._value = value
        self._lock = threading.Lock()
        self.result = 0

    def take(self, backend: Backend, source: Source, offset: int, size: int, *, threads: int) -> Settle:
        """See :class:`Accumulator`."""
        greater = backend.count_equal(source, self._value, counts=no_leaves(size), threads=threads)

        def settle() -> None:
            with self._lock:
                self.result += int(greater)

        return settle

    def end_of_pass(self) -> bool:
        """See :class:`Accumulator`."""
        return True


class CutAccumulator:
    """Where the ties end that belong to the greatest: ties per leaf, then the one leaf in which they end.

    Args:
        value: what ties are equal to.
        count: how many of the greatest, ties included, belong.
        n_elements: of the segment.
    """

    stride: int | None = None

    def __init__(self, value: float, count: int, n_elements: int) -> None:
        self.value = value
        self.count = count
        self._left = count
        self._within: tuple[int, int] | None = None
        self._size = n_elements
        self._equal = np.zeros(-(-n_elements // LEAF), np.uint32)
        self._lock = threading.Lock()
        self._leaf: int | None = None
        self.result = ALL_TIES

    @property
    def wanted(self) -> tuple[int, int] | None:
        """The leaf in which the ties end, once it is known; before that, where it lies, if that is."""
        if self._leaf is None:
            return self._within
        return self._leaf * LEAF, min((self._leaf + 1) * LEAF, self._size)

    @property
    def in_memory(self) -> bool:
        """Once the leaf is known."""
        return self._leaf is not None

    def take(self, backend: Backend, source: Source, offset: int, size: int, *, threads: int) -> Settle:
        """See :class:`Accumulator`; the leaf itself is looked at in this call."""
        if self._leaf is not None:
            start = self._leaf * LEAF - offset
            stop = min(start + LEAF, source.size)
            if 0 <= start < stop:
                self.result = _cut_within(backend, source, self.value, self._left, start, stop)
            return done
        first = offset // LEAF
        counts = self._equal[first : first + -(-size // LEAF)]
        greater = backend.count_equal(source, self.value, counts=counts, threads=threads)

        def settle() -> None:
            if self._within is None:
                with self._lock:
                    self._left -= int(greater)

        return settle

    def look_within(self, start: int, stop: int, ties: int) -> None:
        """The ties end among the elements [start, stop), of which the first so many ties belong."""
        self._within, self._left = (start, stop), ties

    @property
    def sought(self) -> tuple[int, int, int] | None:
        """First and last element among which the ties end, and how many of those belong; None where it is not known."""
        return None if self._within is None else (*self._within, self._left)

    def end_of_pass(self) -> bool:
        """See :class:`Accumulator`."""
        if self._leaf is not None:
            return True
        if self._within is not None:
            first, last = self._within[0] // LEAF, -(-self._within[1] // LEAF)
            cumulative = np.cumsum(self._equal[first:last], dtype=np.int64)
            leaf = int(np.searchsorted(cumulative, self._left, side="left"))
            self._left -= int(cumulative[leaf - 1]) if leaf else 0
            self._leaf = first + leaf
            return False
        found = _leaf_of_cut(self._equal, self._left)
        if found is None:
            self.result = ALL_TIES if self._left > 0 else 0
            return True
        self._leaf, self._left = found
        return False


def find_cut(backend: Backend, source: Source, value: float, count: int, *, threads: int) -> int:
    """The cut of :class:`CutAccumulator` over a segment that is in memory."""
    equal = no_leaves(source.size)
    left = count - backend.count_equal(source, value, counts=equal, threads=threads)
    found = _leaf_of_cut(equal, left)
    if found is None:
        return ALL_TIES if left > 0 else 0
    leaf, left = found
    return _cut_within(backend, source, value, left, leaf * LEAF, min((leaf + 1) * LEAF, source.size))


def _leaf_of_cut(equal: np.ndarray[Any, Any], left: int) -> tuple[int, int] | None:
    """The leaf that holds the last tie that belongs, and how many of that leaf's do; None for all ties or none."""
    cumulative = np.cumsum(equal, dtype=np.int64)
    if left <= 0 or not len(cumulative) or left >= cumulative[-1]:
        return None
    leaf = int(np.searchsorted(cumulative, left, side="left"))
    return leaf, left - (int(cumulative[leaf - 1]) if leaf else 0)


def _cut_within(backend: Backend, source: Source, value: float, left: int, start: int, stop: int) -> int:
    values = backend.values(source, start, stop)
    last = int(np.flatnonzero(values == np.float32(value))[left - 1])
    offset = source.offset if isinstance(source, FormulaSource) else 0
    return offset + start + last + 1


def key_to_float(key: int) -> float:
    """Inverse of the order-preserving key: float32 from its 32-bit rank."""
    if key == 0xFFFFFFFF:
        return float("nan")
    bits = key ^ 0x80000000 if key & 0x80000000 else key ^ 0xFFFFFFFF
    return float(np.array([bits], np.uint32).view(np.float32)[0])
