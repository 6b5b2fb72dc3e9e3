"""The statistics of Triton's backend: of importances as they are stored, and of fields in parts."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.kernels.formula import Source
from sta_kernels.kernels.reference.order import value_of_key_exact
from sta_kernels.kernels.reference.statistics import fold_exact, range_exact
from sta_kernels.kernels.triton.count_equal import launch_count_equal
from sta_kernels.kernels.triton.fields import SCRATCH, evaluated, part_of, parts
from sta_kernels.kernels.triton.leaf_sums import launch_ranges_and_leaf_sums
from sta_kernels.kernels.triton.order_statistic import (
    launch_histogram,
    launch_order_statistic,
    launch_order_statistic_exact,
)
from sta_kernels.kernels.triton.packing import Packed, tensor_of
from sta_kernels.kernels.triton.statistics import launch_first_nonfinite, launch_ranges

_INTERPRETER = threading.RLock()  # its state is global
_DIGITS = (11, 11, 10)
"""Bits of a key that each pass over a field finds that does not fit the scratch memory."""


class Reductions:
    """What reads tensors and returns a few numbers, on one GPU or in the interpreter.

    Args:
        device: "cuda", "cuda:1", or "cpu" in the interpreter.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    @contextmanager
    def launching(self) -> Iterator[None]:
        """On the right device; one at a time in the interpreter."""
        with torch.cuda.device(self.device) if self.device.type == "cuda" else _INTERPRETER:
            yield

    def ranges(
        self,
        sources: Sequence[Source],
        minmax: np.ndarray[Any, Any] | None,
        leaves: Sequence[np.ndarray[Any, Any]] | None,
        *,
        threads: int,
    ) -> None:
        """Fold ranges into ``minmax`` and set ``leaves``: see :meth:`Backend.ranges`."""
        with self.launching(), Packed() as packed:
            for group in parts(packed, sources):
                stored = evaluated(self.device, [part.source for part in group])
                if leaves is None:
                    found = launch_ranges(self.device, stored)
                else:
                    found, sums = launch_ranges_and_leaf_sums(self.device, stored)
                    for part, values in zip(group, sums, strict=True):
                        leaves[part.which][part.leaves] = values.cpu().numpy()
                if minmax is None:
                    continue
                for part, ends in zip(group, found.cpu().numpy(), strict=True):
                    fold_range(ends, minmax[part.which])

    def fold(self, leaves: np.ndarray[Any, Any]) -> float:
        """Tier-B sum of leaf sums: see :meth:`Backend.fold`."""
        return fold_exact(leaves)  # they are in main memory, and few

    def histogram(
        self,
        source: Source,
        *,
        prefix: int,
        prefix_bits: int,
        digit_bits: int,
        counts: np.ndarray[Any, Any],
        threads: int,
    ) -> None:
        """Add to ``counts`` the next digit after ``prefix``: see :meth:`Backend.histogram`."""
        with self.launching(), Packed() as packed:
            for group in parts(packed, [source]):
                for stored in evaluated(self.device, [part.source for part in group]):
                    found = launch_histogram(self.device, stored, prefix, prefix_bits, digit_bits)
                    counts += found.cpu().numpy().astype(np.uint64)

    def order_statistic(self, source: Source, k: int, *, threads: int) -> float:
        """Exact k-th smallest float32 importance: see :meth:`Backend.order_statistic`."""
        return self.order_statistics([source], [k], threads=threads)[0]

    def order_statistics(self, sources: Sequence[Source], ks: Sequence[int], *, threads: int) -> list[float]:
        """Exact k-th smallest float32 importance of each tensor: see :meth:`Backend.order_statistics`."""
        for source, k in zip(sources, ks, strict=True):
            _check_rank(k, source.size)
        results = [float("nan")] * len(sources)
        large = [which for which, source in enumerate(sources) if _in_passes(source)]
        small = [which for which in range(len(sources)) if which not in large]
        with self.launching(), Packed() as packed:
            for group in parts(packed, [sources[which] for which in small]):
                stored = evaluated(self.device, [part.source for part in group])
                places = [small[part.which] for part in group]
                found = launch_order_statistic(self.device, stored, [ks[place] for place in places])
                for place, value in zip(places, found.tolist(), strict=True):
                    results[place] = value
        for which in large:
            results[which] = self._select(sources[which], ks[which])
        return results

    def _select(self, source: Source, k: int) -> float:
        """The k-th smallest, a pass over the source for every few bits of its key."""
        prefix = prefix_bits = 0
        for digit_bits in _DIGITS:
            counts = np.zeros(1 << digit_bits, np.uint64)
            self.histogram(
                source, prefix=prefix, prefix_bits=prefix_bits, digit_bits=digit_bits, counts=counts, threads=1
            )
            cumulative = np.cumsum(counts)
            digit = int(np.searchsorted(cumulative, k))
            k -= int(cumulative[digit] - counts[digit])
            prefix, prefix_bits = prefix << digit_bits | digit, prefix_bits + digit_bits
        return value_of_key_exact(prefix)

    def order_statistic_exact(self, x: Buffer, k: int, *, threads: int) -> float:
        """Exact k-th smallest in the buffer's own dtype: see :meth:`Backend.order_statistic_exact`."""
        _check_rank(k, x.size)
        with self.launching(), Packed() as packed:
            return float(launch_order_statistic_exact(self.device, [packed.buffer(x)], [k])[0])

    def count_equal(self, source: Source, value: float, *, counts: np.ndarray[Any, Any], threads: int) -> int:
        """Count what is greater than a value, and what equals it leaf by leaf: see :meth:`Backend.count_equal`."""
        greater = 0
        with self.launching(), Packed() as packed:
            for group in parts(packed, [source]):
                stored = evaluated(self.device, [part.source for part in group])
                for part, found in zip(
                    group, launch_count_equal(self.device, stored, [value] * len(group)), strict=True
                ):
                    counted = found.cpu().numpy()
                    greater += int(counted[:, 0].sum(dtype=np.int64))
                    counts[part.leaves] = counted[:, 1]
        return greater

    def values(self, source: Source, start: int, stop: int) -> np.ndarray[Any, Any]:
        """A few elements: see :meth:`Backend.values`."""
        with self.launching(), Packed() as packed:
            if isinstance(source, ImportanceSource):
                found = _importances(source, start, stop)
            else:
                (stored,) = evaluated(self.device, [part_of(packed.source(source), start, stop)])
                assert stored.importance is not None
                found = tensor_of(stored.importance)
            values: np.ndarray[Any, Any] = found.cpu().numpy()
            return values

    def first_nonfinite(self, buffers: Sequence[Buffer], *, threads: int = 1) -> tuple[int, int] | None:
        """First NaN or infinity, buffer by buffer: see :meth:`Backend.first_nonfinite`."""
        with self.launching(), Packed() as packed:
            found = launch_first_nonfinite(self.device, [packed.buffer(buffer) for buffer in buffers]).cpu()
        for i, index in enumerate(found.tolist()):
            if index >= 0:
                return i, index
        return None


def fold_range(ends: np.ndarray[Any, Any], minmax: np.ndarray[Any, Any]) -> None:
    """Take the ends that a launch has found into a range; those of nothing change nothing."""
    if not np.array_equal(ends, (np.inf, -np.inf)):
        minmax[:] = range_exact(ends, *minmax)


def _importances(source: ImportanceSource, start: int, stop: int) -> torch.Tensor:
    """A few importances in whichever measure: one rounding per operation, whatever computes them."""
    stored, theta = (
        None if buffer is None else tensor_of(buffer).reshape(-1)[start:stop].float()
        for buffer in (source.importance, source.theta)
    )
    if source.measure == "lp":
        assert stored is not None
        return stored
    assert theta is not None
    return theta * theta if stored is None or source.measure == "amp" else stored * (theta * theta)


def _in_passes(source: Source) -> bool:
    """Whether a source is a field that does not fit the scratch memory."""
    return not isinstance(source, ImportanceSource) and source.size > SCRATCH


def _check_rank(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k = {k}: expected 1 to {n}, the number of elements")
