"""STA forgetting: subtract from a model what mattered most to one task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.kernels.reference.environment import ieee_arithmetic
from sta_kernels.methods.base import Method, Operands, Place, Roles, Settings, counts_address
from sta_kernels.methods.parameters import LAMBDA, MEASURE, WEIGHT, P
from sta_kernels.methods.quantile import rank_of_quantile
from sta_kernels.methods.statistics import OrderStatistic, Statistic
from sta_kernels.methods.subjects import Importance


class StaForget(Method):
    """``θ = θ_target − λ·w·M ⊙ τ`` with ``M = [I above the p-quantile of I over the segment]`` (eq. 18–20).

    Eq. 13's normalisation is monotone and so is left out. The target is the base unless another model is given.
    Source: arXiv 2411.16139.
    """

    name = "sta_forget"
    summary = "STA forgetting: subtract a task's most important entries"
    models: tuple[int, int | None] = (1, 1)
    parameters = (P, MEASURE, WEIGHT, LAMBDA)

    def roles(self, settings: Settings) -> Roles:
        """Base, target and model; importances unless they follow from the weights."""
        return Roles(importance=settings.shared["measure"] != "amp", target=True)

    def statistics(
        self, settings: Settings, n_models: int, place: Place, earlier: Sequence[Any]
    ) -> tuple[Statistic, ...]:
        """The importance at rank ``⌊1 + (n − 1)p⌋`` of the segment."""
        if earlier:
            return ()
        rank = rank_of_quantile(settings.shared["p"], max(place.size, 1))
        return (OrderStatistic(Importance(0, settings.shared["measure"]), rank),)

    def counters(self, n_models: int) -> tuple[str, ...]:
        """Entries in the mask: those that are subtracted."""
        return ("kept",)

    @ieee_arithmetic()
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
        """Compare, subtract."""
        assert operands.base is not None
        measure = settings.shared["measure"]
        (model,) = operands.models
        importance = operands.importances[0] if operands.importances else None
        backend.sta_forget(
            operands.target if operands.target is not None else operands.base,
            operands.base,
            model,
            ImportanceSource(measure, importance, None if measure == "lp" else model),
            threshold=results[0],
            weight=settings.per_model["weight"][0],
            lambda_=settings.shared["lambda_"],
            out=out,
            counts_address=counts_address(counts),
            threads=threads,
        )


METHODS = (StaForget(),)
