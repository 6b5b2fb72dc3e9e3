"""Gates that keep a band of magnitudes: all but the smallest (TIES), or but those and the greatest (Breadcrumbs)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from sta_kernels.methods.base import Place, Settings
from sta_kernels.methods.sparse import Gate, SparseMethod, distance_of
from sta_kernels.methods.statistics import OrderStatistic, Statistic, TieCut


class BandMethod(SparseMethod):
    """Keeps, of each task's entries ordered by falling |τ|, those from one position to another; ties by index.

    So exactly as many are kept as are asked for. Where a boundary falls among equals, the lower index comes first.
    """

    gate = "band"

    @abstractmethod
    def band(self, settings: Settings, task: int, n_elements: int) -> tuple[int, int]:
        """First position that is kept, and the one after the last."""

    def statistics(
        self, settings: Settings, n_models: int, place: Place, earlier: Sequence[Any]
    ) -> tuple[Statistic, ...]:
        """The magnitudes at the boundaries, then where their ties end, then the norms if these are restored."""
        boundaries = self._boundaries(settings, n_models, place.size)
        if len(earlier) < len(boundaries):
            return tuple(OrderStatistic(distance_of(task), place.size - last + 1) for task, last in boundaries)
        if len(earlier) < 2 * len(boundaries):
            pairs = zip(boundaries, earlier, strict=True)
            return tuple(TieCut(distance_of(task), value, last) for (task, last), value in pairs)
        if len(earlier) == 2 * len(boundaries):
            return self.norms(settings, n_models, place, self.gates(settings, n_models, place, earlier))
        return ()

    def gates(self, settings: Settings, n_models: int, place: Place, results: Sequence[Any]) -> list[Gate]:
        """Pairs of threshold and cut; see :class:`SparseMethod`."""
        n = place.size
        boundaries = self._boundaries(settings, n_models, n)
        found = dict(zip(boundaries, zip(results, results[len(boundaries) :], strict=False), strict=True))

        def pair(task: int, last: int) -> tuple[float, int]:
            """What the ``last`` greatest are above."""
            if last <= 0:
                return (math.inf, 0)
            return (-1.0, 0) if last >= n else found[task, last]

        return [
            Gate(upper=pair(task, first), lower=pair(task, last))
            for task in range(n_models)
            for first, last in [self.band(settings, task, n)]
        ]

    def _boundaries(self, settings: Settings, n_models: int, n: int) -> list[tuple[int, int]]:
        """(task, how many of the greatest lie before it) of every boundary within the segment."""
        return [
            (task, last)
            for task in range(n_models)
            for last in sorted(set(self.band(settings, task, n)))
            if 0 < last < n
        ]
