"""Exact order statistics of what streams by, in one read.

A sample of runs spread over all elements gives a window of keys that very probably holds the k-th smallest. The next
read counts the keys below the window and sets aside those within it, of which the value is then selected. Where the
window missed, it is widened once; where it holds too much, the digits are counted as ever (:class:`SelectAccumulator`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.formula import Source
from sta_kernels.kernels.native_calls import Collector
from sta_kernels.kernels.reference.environment import ieee_arithmetic
from sta_kernels.methods.accumulators import (
    ALL_TIES,
    Accumulator,
    CutAccumulator,
    SelectAccumulator,
    Settle,
    key_to_float,
)
from sta_kernels.methods.statistics import OrderStatistic, Statistic

LEAST = 1 << 18
"""Elements from which on a sample pays."""
RUN = 512
"""Neighbouring elements of the sample."""
_SAMPLE = 1 << 15
_LARGEST_SAMPLE = 1 << 21
_DEVIATIONS = 12
"""Of a rank among as many independent draws. Neighbours are alike, so that there are fewer independent ones."""
_MOST = 1 << 20
"""Keys that are set aside."""
_GREATEST = 400 << 20
"""Elements up to which so many keys make a window that a sample's rank does not miss by chance."""
_PARTS = 8
"""Of a tile, told apart: so narrow is the place where ties end known before it is looked for."""
_LEAST_PART = 1 << 16
_EVERYTHING = (0, 0xFFFFFFFF)
_TRIES = 2


class _Tile:
    """What a tile has within the window.

    Args:
        start: first element.
        stop: element after the last.
        collector: has seen the tile.
    """

    def __init__(self, start: int, stop: int, collector: Collector) -> None:
        self.start, self.stop = start, stop
        self.keys = collector.keys
        self._collector = collector

    def less(self, key: int) -> int:
        """How many are less than a key."""
        return self._collector.count(np.less, key)

    def number(self, key: int) -> int:
        """Occurrences of one key."""
        return self._collector.count(np.equal, key)

    def part_with(self, key: int, occurrence: int) -> tuple[int, int, int]:
        """The part in which a key occurs for the n-th time, and which of its occurrences there that is."""
        start, before = self.start, 0
        for element, number in self._collector.before_parts(key):
            if occurrence <= number:
                return start, self.start + element, occurrence - before
            start, before = self.start + element, number
        return start, self.stop, occurrence - before


def bracketed(declared: Sequence[Statistic], n_elements: int, room: int) -> bool:
    """Whether order statistics among those of a round are worth brackets.

    Args:
        declared: the round.
        n_elements: over which they are taken.
        room: bytes that all of them may hold.
    """
    number = sum(isinstance(statistic, OrderStatistic) for statistic in declared)
    return LEAST <= n_elements <= _GREATEST and number * _held(n_elements) <= room


def _held(n_elements: int) -> int:
    """Bytes of a sample and its copy; then of the keys that are set aside, those of tiles on their way, and copies."""
    return max(8 * sample_size(n_elements), 16 * min(n_elements, _MOST))


def sample_size(n_elements: int) -> int:
    """Elements that a sample aims at."""
    return min(max(n_elements // 64, _SAMPLE), _LARGEST_SAMPLE)


def shown(pending: Mapping[int, tuple[Any, Accumulator]]) -> tuple[dict[int, tuple[Any, Accumulator]], int | None]:
    """Which of some statistics the next pass is for, and its stride: samples are taken before anything else."""
    strides = [accumulator.stride for _, accumulator in pending.values() if accumulator.stride is not None]
    if not strides:
        return dict(pending), None
    return {i: pair for i, pair in pending.items() if pair[1].stride == strides[0]}, strides[0]


class BracketAccumulator(SelectAccumulator):
    """The k-th smallest of many elements; its backend notes calls (:class:`sta_kernels.kernels.native_flow.Recorder`).

    Args:
        k: rank, from 1.
        n_elements: of all.
        in_parts: whether :meth:`seed` will be asked, so that parts of tiles are told apart.
    """

    def __init__(self, k: int, n_elements: int, *, in_parts: bool = False) -> None:
        super().__init__(k)
        self._k, self._n = k, n_elements
        self._in_parts = in_parts
        self._sampled = sample_size(n_elements)
        self._window: tuple[int, int] | None = None
        self._common = (0, 0)
        self._sample: list[np.ndarray[Any, Any]] = []
        self._tries = 0
        self._counts_digits = k > n_elements
        self._start()

    def _start(self) -> None:
        self._below = self._overflow = self._set_aside = 0
        self._tiles: list[_Tile] = []

    @property
    def stride(self) -> int | None:
        """See :class:`Accumulator`."""
        if self._window is not None or self._counts_digits:
            return None
        return max(self._n // (self._sampled // RUN) // 4096, 1) * 4096

    def take(self, backend: Backend, source: Source, offset: int, size: int, *, threads: int) -> Settle:
        """See :class:`Accumulator`."""
        if self._counts_digits:
            return super().take(backend, source, offset, size, threads=threads)
        if self._window is None:
            runs = -(-size // (self.stride or 1))
            collector = Collector(_EVERYTHING, (0, 0), runs * RUN, size)
        else:
            room = min(size, _MOST)  # of all tiles together; memory is touched only as it fills
            part = max(-(-size // _PARTS), _LEAST_PART) if self._in_parts else None
            collector = Collector(self._window, self._common, room, size, part)
        backend.collect(source, collector)  # type: ignore[attr-defined]

        def settle() -> None:
            if self._window is None:
                sample = collector.keys
                with self._lock:
                    self._sample.append(sample)
                return
            with self._lock:
                self._below += collector.below
                self._overflow += collector.overflow
                self._set_aside += len(collector.keys)
                if self._set_aside > _MOST:
                    self._overflow += 1
                    self._tiles.clear()
                if self._overflow:
                    return
            tile = _Tile(offset, offset + size, collector)
            with self._lock:
                self._tiles.append(tile)

        return settle

    def _margin(self, sampled: int) -> float:
        share = self._k / self._n
        wide = _DEVIATIONS * 4**self._tries * math.sqrt(sampled * share * (1 - share) + 1)
        fits = _MOST / self._n * sampled / 3  # on either side; what is left of the room is for chance
        return max(min(wide, fits), 1.0)

    @ieee_arithmetic()
    def end_of_pass(self) -> bool:
        """See :class:`Accumulator`."""
        if self._counts_digits:
            return super().end_of_pass()
        if self._window is None:
            self._place_window()
            return False
        found = None if self._overflow else self._select(self._k - self._below)
        if found is not None:
            self._key = found
            self.result = key_to_float(found)
            return True
        self._tries += 1
        self._counts_digits = bool(self._overflow) or self._tries >= _TRIES
        self._start()
        if not self._counts_digits:
            missed = self._window
            self._place_window()
            self._counts_digits |= self._window == missed  # there is no room for a wider one
        return False

    def _select(self, rank: int) -> int | None:
        """The key of a rank, from 1, within the window; None where that holds fewer."""
        if rank < 1 or not self._tiles:
            return None
        passed = 0
        for key in sorted(filter(None, self._common)):  # as a rule it is one of them, and the others need no order
            less, equal = sum(tile.less(key) for tile in self._tiles), sum(tile.number(key) for tile in self._tiles)
            if rank <= less:
                break
            if rank <= less + equal:
                return key
            passed += equal
        keys = [tile.keys for tile in self._tiles]
        others = keys[0] if len(keys) == 1 else np.concatenate(keys)
        index = rank - passed - 1
        return int(np.partition(others, index)[index]) if index < len(others) else None

    def _place_window(self) -> None:
        sample = np.concatenate(self._sample) if self._sample else np.zeros(0, np.uint32)
        if not len(sample):
            self._counts_digits = True
            return
        rank, margin = self._k / self._n * len(sample), self._margin(len(sample))
        low, high = math.floor(rank - margin), math.ceil(rank + margin)
        edges = [edge for edge in (low, high) if 0 <= edge < len(sample)]
        sample.partition(edges or 0)
        self._sample = [sample]
        self._window = (
            int(sample[low]) if low >= 0 else 0,
            int(sample[high]) if high < len(sample) else 0xFFFFFFFF,
        )
        keys, counts = np.unique(sample[max(low, 0) : high + 1], return_counts=True)
        frequent = [int(key) for key in keys[np.argsort(counts)[:-3:-1]]]
        self._common = (frequent[0], frequent[1] if len(frequent) > 1 else 0)

    def seed(self, cut: CutAccumulator) -> bool:
        """Tell where the ties end that are equal to the result; True where the cut is known by that.

        As far as is known: as a rule, in which part of a tile it lies.
        """
        if self._counts_digits:
            return False
        below = self._below + sum(tile.less(self._key) for tile in self._tiles)
        ties = sum(tile.number(self._key) for tile in self._tiles)
        left = cut.count - (self._n - below - ties)
        if left <= 0 or left >= ties:
            cut.result = ALL_TIES if left > 0 else 0
            return True
        for tile in sorted(self._tiles, key=lambda tile: tile.start):
            number = tile.number(self._key)
            if left <= number:
                cut.look_within(*tile.part_with(self._key, left))
                break
            left -= number
        return False
