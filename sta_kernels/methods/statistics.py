"""Statistics: what a method must know of a whole segment before its rule can run at one position.

A statistic is declared with the method, and accumulated over any sequence of tiles, by any number of threads,
with the same bits as in one piece, and whatever floating-point mode the caller has set: the few operations done here
see the same subnormals as those in the kernels.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from sta_kernels.kernels.backend import LEAF, Backend
from sta_kernels.kernels.buffers import ImportanceSource
from sta_kernels.kernels.reference.environment import ieee_arithmetic


@dataclass(frozen=True)
class Summary:
    """Range and mean of an importance tensor, as an importance file carries them."""

    min: float
    max: float
    mean: float

    @property
    def finite(self) -> bool:
        """Whether it can be relied upon: what is infinite or NaN says nothing of the values."""
        return all(map(math.isfinite, (self.min, self.max, self.mean)))


class Accumulator(Protocol):
    """A statistic on its way; thread-safe."""

    result: Any
    """Valid once :meth:`end_of_pass` has returned True."""

    def update(self, backend: Backend, source: ImportanceSource, offset: int, *, threads: int) -> None:
        """Take in a tile that starts at element ``offset`` of the segment, a multiple of 4,096."""

    def end_of_pass(self) -> bool:
        """All tiles were seen. True when the result is final; False asks for another pass over the segment."""


class Statistic(Protocol):
    """One reduction over one task's importance."""

    @property
    def task(self) -> int:
        """Index of the model whose importance is reduced."""

    @property
    def measure(self) -> str:
        """The importance that is reduced."""

    @property
    def passes(self) -> int:
        """Passes over a segment that is streamed."""

    @property
    def tier(self) -> str:
        """``A`` where any order of the elements gives the same bits, ``B`` where a fixed one does."""

    def known(self, summary: Summary) -> Any:
        """The result where the file already carries it, else None."""

    def accumulator(self, n_elements: int) -> Accumulator:
        """A fresh accumulator for a segment."""

    @staticmethod
    def of_segments(
        statistics: Sequence[Any], sources: Sequence[ImportanceSource], backend: Backend, threads: int
    ) -> list[Any]:
        """Results of statistics of this kind and one measure, each over a segment that is in memory, in one call."""


@dataclass(frozen=True)
class Range:
    """(min, max) of the importance, as two floats; NaN when it holds one."""

    task: int
    measure: str
    passes: ClassVar[int] = 1
    tier: ClassVar[str] = "A"

    def known(self, summary: Summary) -> tuple[float, float] | None:
        """The file's range; only a stored importance has one, and only a finite one is knowledge."""
        return (summary.min, summary.max) if self.measure == "lp" and summary.finite else None

    def accumulator(self, n_elements: int) -> Accumulator:
        """A fresh accumulator."""
        return _RangeAccumulator()

    @staticmethod
    @ieee_arithmetic()
    def of_segments(
        statistics: Sequence[Range], sources: Sequence[ImportanceSource], backend: Backend, threads: int
    ) -> list[tuple[float, float]]:
        """(min, max) of each importance."""
        ends = _nothing(len(sources))
        backend.ranges(sources, ends, None, threads=threads)
        return [(float(low), float(high)) for low, high in ends]


@dataclass(frozen=True)
class Mean:
    """Mean of the importance: tier-B sum in float64, divided by the count, rounded to float32; 0 of nothing."""

    task: int
    measure: str
    passes: ClassVar[int] = 1
    tier: ClassVar[str] = "B"

    def known(self, summary: Summary) -> float | None:
        """The file's mean; only a stored importance has one, and only a finite one is knowledge."""
        return summary.mean if self.measure == "lp" and summary.finite else None

    def accumulator(self, n_elements: int) -> Accumulator:
        """A fresh accumulator."""
        return _MeanAccumulator(n_elements)

    @staticmethod
    @ieee_arithmetic()
    def of_segments(
        statistics: Sequence[Mean], sources: Sequence[ImportanceSource], backend: Backend, threads: int
    ) -> list[float]:
        """Mean of each importance."""
        leaves = [np.zeros(-(-source.size // LEAF), np.float64) for source in sources]
        backend.ranges(sources, _nothing(len(sources)), leaves, threads=threads)
        return [_mean(backend, sums, source.size) for sums, source in zip(leaves, sources, strict=True)]


@dataclass(frozen=True)
class OrderStatistic:
    """Exact k-th smallest importance (1-based), by radix selection in three passes; NaN where fewer exist."""

    task: int
    measure: str
    k: int
    passes: ClassVar[int] = 3
    tier: ClassVar[str] = "A"

    def known(self, summary: Summary) -> None:
        """Never in a file."""
        return None

    def accumulator(self, n_elements: int) -> Accumulator:
        """A fresh accumulator."""
        return _SelectAccumulator(self.k)

    @staticmethod
    @ieee_arithmetic()
    def of_segments(
        statistics: Sequence[OrderStatistic], sources: Sequence[ImportanceSource], backend: Backend, threads: int
    ) -> list[float]:
        """k-th smallest of each importance."""
        results = [math.nan] * len(sources)
        ranked = [i for i, statistic in enumerate(statistics) if statistic.k <= sources[i].size]
        if ranked:
            found = backend.order_statistics(
                [sources[i] for i in ranked], [statistics[i].k for i in ranked], threads=threads
            )
            for i, value in zip(ranked, found, strict=True):
                results[i] = value
        return results


def _nothing(count: int) -> np.ndarray[Any, Any]:
    """Ranges of nothing, to be folded into."""
    return np.tile(np.array((np.inf, -np.inf), np.float32), (count, 1))


def _mean(backend: Backend, leaves: np.ndarray[Any, Any], count: int) -> float:
    return float(np.float32(backend.fold(leaves) / count)) if count else 0.0


class _RangeAccumulator:
    def __init__(self) -> None:
        self._minmax = _nothing(1)
        self._lock = threading.Lock()
        self.result: tuple[float, float] = (np.nan, np.nan)

    @ieee_arithmetic()
    def update(self, backend: Backend, source: ImportanceSource, offset: int, *, threads: int) -> None:
        tile = _nothing(1)
        backend.ranges([source], tile, None, threads=threads)
        self.add(*tile[0])

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
        self.result = (float(self._minmax[0, 0]), float(self._minmax[0, 1]))
        return True


class _MeanAccumulator:
    def __init__(self, n_elements: int) -> None:
        self._count = n_elements
        self._leaves = np.zeros(-(-n_elements // LEAF), np.float64)
        self._backend: Backend | None = None
        self.result = 0.0

    @ieee_arithmetic()
    def update(self, backend: Backend, source: ImportanceSource, offset: int, *, threads: int) -> None:
        first = offset // LEAF
        leaves = self._leaves[first : first + -(-source.size // LEAF)]
        backend.ranges([source], _nothing(1), [leaves], threads=threads)
        self._backend = backend

    @ieee_arithmetic()
    def end_of_pass(self) -> bool:
        if self._backend is not None:
            self.result = _mean(self._backend, self._leaves, self._count)
        return True


@ieee_arithmetic()
def update_together(
    accumulators: Sequence[Accumulator],
    sources: Sequence[ImportanceSource],
    backend: Backend,
    offset: int,
    *,
    threads: int,
) -> None:
    """:meth:`Accumulator.update` of several, for one tile of importances of one measure: all ranges in one call."""
    pairs = list(zip(accumulators, sources, strict=True))
    ranged = [(accumulator, source) for accumulator, source in pairs if isinstance(accumulator, _RangeAccumulator)]
    if ranged:
        ends = _nothing(len(ranged))
        backend.ranges([source for _, source in ranged], ends, None, threads=threads)
        for (accumulator, _), (low, high) in zip(ranged, ends, strict=True):
            accumulator.add(low, high)
    for other, source in pairs:
        if not isinstance(other, _RangeAccumulator):
            other.update(backend, source, offset, threads=threads)


_DIGITS = (11, 11, 10)


class _SelectAccumulator:
    def __init__(self, k: int) -> None:
        self._rank = k
        self._prefix = 0
        self._bits = 0
        self._pass = 0
        self._counts = np.zeros(1 << _DIGITS[0], np.uint64)
        self._lock = threading.Lock()
        self.result = float("nan")

    def update(self, backend: Backend, source: ImportanceSource, offset: int, *, threads: int) -> None:
        digit_bits = _DIGITS[self._pass]
        counts = np.zeros(1 << digit_bits, np.uint64)
        backend.histogram(
            source, prefix=self._prefix, prefix_bits=self._bits, digit_bits=digit_bits, counts=counts, threads=threads
        )
        with self._lock:
            self._counts += counts

    @ieee_arithmetic()
    def end_of_pass(self) -> bool:
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
        self.result = _key_to_float(self._prefix)
        return True


def _key_to_float(key: int) -> float:
    """Inverse of the order-preserving key: float32 from its 32-bit rank."""
    if key == 0xFFFFFFFF:
        return float("nan")
    bits = key ^ 0x80000000 if key & 0x80000000 else key ^ 0xFFFFFFFF
    return float(np.array([bits], np.uint32).view(np.float32)[0])
