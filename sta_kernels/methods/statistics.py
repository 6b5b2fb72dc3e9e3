"""Statistics: what a method must know of a whole segment, block or model before its rule can run at one position.

A statistic is declared with the method, and accumulated over any sequence of tiles, by any number of threads,
with the same bits as in one piece, and whatever floating-point mode the caller has set: the few operations done here
see the same subnormals as those in the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np

from sta_kernels.kernels.backend import LEAF, Backend
from sta_kernels.kernels.buffers import ImportanceSource
from sta_kernels.kernels.formula import FormulaSource, Source
from sta_kernels.kernels.reference.environment import ieee_arithmetic
from sta_kernels.methods.accumulators import (
    HISTOGRAM_BYTES,
    Accumulator,
    CutAccumulator,
    GreaterAccumulator,
    RangeAccumulator,
    SelectAccumulator,
    Settle,
    SumAccumulator,
    find_cut,
    no_leaves,
    nothing,
)
from sta_kernels.methods.subjects import Importance, Subject

SCOPES = ("segment", "block", "model")
"""Over what a statistic is taken: what is merged by itself, the tensors of one layer, or all that is merged."""


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


class Statistic(Protocol):
    """One reduction of a subject."""

    @property
    def subject(self) -> Subject:
        """What is reduced."""

    @property
    def scope(self) -> str:
        """One of :data:`SCOPES`."""

    @property
    def passes(self) -> int:
        """Most passes over a segment that is streamed."""

    @property
    def tier(self) -> str:
        """``A`` where any order of the elements gives the same bits, ``B`` where a fixed one does."""

    @property
    def unknown(self) -> Any:
        """A value of the result's type, to ask what the next round would be."""

    def known(self, summary: Summary) -> Any:
        """The result where the file already carries it, else None."""

    def accumulator(self, n_elements: int, extent: int) -> Accumulator:
        """A fresh accumulator for so many elements, at offsets below ``extent``."""

    def held(self, extent: int) -> int:
        """Bytes that an accumulator holds, for offsets below ``extent``."""

    @staticmethod
    def of_segments(statistics: Sequence[Any], sources: Sequence[Source], backend: Backend, threads: int) -> list[Any]:
        """Results of statistics of this kind, each over a segment that is in memory, in one call where that is one."""


@dataclass(frozen=True)
class _Reduction:
    subject: Subject
    scope: str = field(default="segment", kw_only=True)

    passes: ClassVar[int] = 1
    tier: ClassVar[str] = "A"
    unknown: ClassVar[Any] = 0.0

    def known(self, summary: Summary) -> Any:
        """Not in a file."""
        return None

    def held(self, extent: int) -> int:
        """A few numbers."""
        return 0

    def _stored(self, summary: Summary) -> bool:
        """Whether the file's figures are this statistic's: of a stored importance, over a tensor, and finite."""
        stored = isinstance(self.subject, Importance) and self.subject.measure == "lp"
        return stored and self.scope == "segment" and summary.finite


@dataclass(frozen=True)
class Range(_Reduction):
    """(min, max), as two floats; NaN when there is one."""

    unknown: ClassVar[Any] = (0.0, 0.0)

    def known(self, summary: Summary) -> tuple[float, float] | None:
        """The file's range."""
        return (summary.min, summary.max) if self._stored(summary) else None

    def accumulator(self, n_elements: int, extent: int) -> RangeAccumulator:
        """A fresh accumulator."""
        return RangeAccumulator()

    @staticmethod
    @ieee_arithmetic()
    def of_segments(
        statistics: Sequence[Range], sources: Sequence[Source], backend: Backend, threads: int
    ) -> list[tuple[float, float]]:
        """(min, max) of each."""
        ends = nothing(len(sources))
        backend.ranges(sources, ends, None, threads=threads)
        return [(float(low), float(high)) for low, high in ends]


@dataclass(frozen=True)
class Sum(_Reduction):
    """Tier-B sum in float64."""

    tier: ClassVar[str] = "B"

    def accumulator(self, n_elements: int, extent: int) -> SumAccumulator:
        """A fresh accumulator."""
        return SumAccumulator(extent, self.settle, n_elements)

    def held(self, extent: int) -> int:
        """A float64 per leaf."""
        return -(-extent // LEAF) * 8

    @staticmethod
    def settle(total: float, n_elements: int) -> float:
        """The result from the sum."""
        return total

    @staticmethod
    @ieee_arithmetic()
    def of_segments(
        statistics: Sequence[Sum], sources: Sequence[Source], backend: Backend, threads: int
    ) -> list[float]:
        """Sum of each."""
        leaves = [np.zeros(-(-source.size // LEAF), np.float64) for source in sources]
        backend.ranges(sources, None, leaves, threads=threads)
        return [
            statistic.settle(backend.fold(sums), source.size)
            for statistic, sums, source in zip(statistics, leaves, sources, strict=True)
        ]


@dataclass(frozen=True)
class Count(Sum):
    """Sum of whole numbers, each below 2²⁴ in magnitude: exact in any order."""

    tier: ClassVar[str] = "A"


@dataclass(frozen=True)
class Mean(Sum):
    """Tier-B sum in float64, divided by the count, rounded to float32; 0 of nothing."""

    def known(self, summary: Summary) -> float | None:
        """The file's mean."""
        return summary.mean if self._stored(summary) else None

    @staticmethod
    def settle(total: float, n_elements: int) -> float:
        """The result from the sum."""
        return float(np.float32(total / n_elements)) if n_elements else 0.0


@dataclass(frozen=True)
class OrderStatistic(_Reduction):
    """Exact k-th smallest (1-based), by radix selection in three passes; NaN where fewer exist."""

    k: int
    passes: ClassVar[int] = 3

    def accumulator(self, n_elements: int, extent: int) -> SelectAccumulator:
        """A fresh accumulator."""
        return SelectAccumulator(self.k)

    def held(self, extent: int) -> int:
        """A histogram."""
        return HISTOGRAM_BYTES

    @staticmethod
    @ieee_arithmetic()
    def of_segments(
        statistics: Sequence[OrderStatistic], sources: Sequence[Source], backend: Backend, threads: int
    ) -> list[float]:
        """k-th smallest of each."""
        results = [math.nan] * len(sources)
        ranked = [i for i, statistic in enumerate(statistics) if statistic.k <= sources[i].size]
        if ranked:
            found = backend.order_statistics(
                [sources[i] for i in ranked], [statistics[i].k for i in ranked], threads=threads
            )
            for i, value in zip(ranked, found, strict=True):
                results[i] = value
        return results


@dataclass(frozen=True)
class Greater(_Reduction):
    """How many elements are greater than a value."""

    value: float
    unknown: ClassVar[Any] = 1

    def accumulator(self, n_elements: int, extent: int) -> GreaterAccumulator:
        """A fresh accumulator."""
        return GreaterAccumulator(self.value)

    @staticmethod
    @ieee_arithmetic()
    def of_segments(
        statistics: Sequence[Greater], sources: Sequence[Source], backend: Backend, threads: int
    ) -> list[int]:
        """Count of each."""
        return [
            backend.count_equal(source, statistic.value, counts=no_leaves(source.size), threads=threads)
            for statistic, source in zip(statistics, sources, strict=True)
        ]


@dataclass(frozen=True)
class TieCut(_Reduction):
    """The index below which entries equal to ``value`` belong to the ``count`` greatest of a segment.

    Of equal entries, those of the lowest index are taken first. The index is the element's in its tensor; all ties
    belong where the result is :data:`~sta_kernels.methods.accumulators.ALL_TIES`. One pass, and a second over a leaf.
    """

    value: float
    count: int
    unknown: ClassVar[Any] = 0

    def accumulator(self, n_elements: int, extent: int) -> CutAccumulator:
        """A fresh accumulator."""
        return CutAccumulator(self.value, self.count, n_elements)

    def held(self, extent: int) -> int:
        """A uint32 per leaf."""
        return -(-extent // LEAF) * 4

    @staticmethod
    @ieee_arithmetic()
    def of_segments(
        statistics: Sequence[TieCut], sources: Sequence[Source], backend: Backend, threads: int
    ) -> list[int]:
        """Cut of each."""
        return [
            find_cut(backend, source, statistic.value, statistic.count, threads=threads)
            for statistic, source in zip(statistics, sources, strict=True)
        ]


@ieee_arithmetic()
def take_together(
    accumulators: Sequence[Accumulator],
    sources: Sequence[Source],
    backend: Backend,
    offset: int,
    size: int,
    *,
    threads: int,
) -> list[Settle]:
    """:meth:`Accumulator.take` of several, for one tile.

    All ranges of importances of one measure are one call, and so are all sums of fields, which share operands.
    """
    settles: list[Settle] = []
    by_measure: dict[str, list[tuple[RangeAccumulator, Source]]] = {}
    summed: list[tuple[SumAccumulator, Source]] = []
    for accumulator, source in zip(accumulators, sources, strict=True):
        if isinstance(accumulator, RangeAccumulator) and isinstance(source, ImportanceSource):
            by_measure.setdefault(source.measure, []).append((accumulator, source))
        elif isinstance(accumulator, SumAccumulator) and isinstance(source, FormulaSource):
            summed.append((accumulator, source))
        else:
            settles.append(accumulator.take(backend, source, offset, size, threads=threads))
    for ranged in by_measure.values():
        ends = nothing(len(ranged))
        backend.ranges([source for _, source in ranged], ends, None, threads=threads)
        for (together, _), row in zip(ranged, ends, strict=True):
            settles.append(partial(_add, together, row))
    if summed:
        leaves = [accumulator.leaves(backend, offset, size) for accumulator, _ in summed]
        backend.ranges([source for _, source in summed], None, leaves, threads=threads)
    return settles


def update_together(
    accumulators: Sequence[Accumulator],
    sources: Sequence[Source],
    backend: Backend,
    offset: int,
    *,
    threads: int,
) -> None:
    """Take in one tile, which the sources hold as a whole."""
    size = sources[0].size if sources else 0
    for settle in take_together(accumulators, sources, backend, offset, size, threads=threads):
        settle()


def _add(accumulator: RangeAccumulator, row: np.ndarray[Any, Any]) -> None:
    accumulator.add(*row)
