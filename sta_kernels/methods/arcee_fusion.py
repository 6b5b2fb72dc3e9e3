"""Arcee Fusion: take from the other model what changed most, in rows that changed most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.kernels.formula import Formula, FormulaSource
from sta_kernels.methods.base import Method, Operands, Place, Settings
from sta_kernels.methods.divergence import divergence
from sta_kernels.methods.rows import CHUNK, in_rows, spread, width_of


class ArceeFusion(Method):
    """``δ = τ·[I ≥ q2 + 1.5·(q3 − q1)]``, ``I = |τ|·K`` (mergekit's arcee_fusion, of the Arcee Fusion merges).

    K is the Kullback-Leibler divergence of the softmaxes of model and base along a row, the last axis, with 1e-8 added
    to each probability, in float64; q1, q2 and q3 are the exact quartiles of I over the tensor, entries of rank
    ``⌊q·(n − 1)⌋``. mergekit takes K in float32, whose rounding drowns the K of a small change, and samples the
    quartiles of tensors of more than a million entries.
    """

    name = "arcee_fusion"
    summary = "entries of one model that stand out by their change and their row's divergence"
    models: tuple[int, int | None] = (1, 1)
    models_hint = "adds to base_model what stands out in one other model"
    tier = "B"
    whole = True

    def workspace(self, place: Place, n_models: int) -> int:
        """The float64 of some rows, a dozen times over; and K."""
        longest = max(CHUNK, width_of(place.shape))
        return 100 * longest + 16 * (place.size // max(width_of(place.shape), 1))

    def apply(
        self,
        backend: Backend,
        operands: Operands,
        results: Sequence[Any],
        settings: Settings,
        *,
        place: Place,
        out: Buffer,
        counts: np.ndarray[Any, Any] | None,
        threads: int,
    ) -> None:
        """Divergences, quartiles, and the rule."""
        if not out.size:
            return
        model = operands.models[0]
        divergences = spread(self._divergences(backend, operands, place), place.shape, -1, model)

        def source(name: str, *shared: float) -> FormulaSource:
            return FormulaSource(
                Formula(name, (), shared), operands.models, operands.base, (divergences,), operands.offset
            )

        importance = source("arcee_importance")
        ranks = [quarters * (out.size - 1) // 4 + 1 for quarters in (1, 2, 3)]
        found = backend.order_statistics([importance] * 3, ranks, threads=threads)
        low, median, high = np.array(found, np.float32)
        threshold = median + np.float32(1.5) * (high - low)
        backend.evaluate(source("arcee_fusion", float(threshold)), out=out, threads=threads)

    def _divergences(self, backend: Backend, operands: Operands, place: Place) -> np.ndarray[Any, Any]:
        width = width_of(place.shape)

        def rows(buffer: Buffer | None, start: int, stop: int) -> np.ndarray[Any, Any]:
            return backend.values(ImportanceSource("lp", buffer), start, stop).reshape(-1, width)

        return np.concatenate(
            [
                divergence(rows(operands.base, *part), rows(operands.models[0], *part))
                for part in in_rows(width, place.size)
            ]
        )


METHODS = (ArceeFusion(),)
