"""Parameter competition balancing: weigh each entry by its own size and by its agreement with the other tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sta_kernels.kernels.formula import Formula
from sta_kernels.methods.base import FormulaMethod, Parameter, Place, Settings
from sta_kernels.methods.parameters import LAMBDA, WEIGHT, choice, quantile
from sta_kernels.methods.quantile import exact
from sta_kernels.methods.sparse import distance_of
from sta_kernels.methods.statistics import OrderStatistic, Range, Statistic
from sta_kernels.methods.subjects import Field

VARIANTS = ("v1", "v2", "v3")


class Pcb(FormulaMethod):
    """``δ = λ·Σ w_i·a_i·S_i / Σ S_i`` (arXiv 2410.02396, as its code has it), all statistics over the whole model.

    a_i is τ_i with |τ_i| clipped to its quantiles at ``clip`` and 1 − ``clip``, m_i that magnitude brought to [0, 1],
    and ``z_i = sgn(τ_i)·m_i``. The score ``β_i = exp(N·m_i²)·agreement`` has an agreement of ``Σ_j tanh(z_i·z_j)``
    (``v3``), ``tanh(τ_i·Σ_j z_j)`` (``v2``) or ``tanh(τ_i·Σ_j τ_j)`` (``v1``). S_i brings to [0, 1] what of β_i is
    above its (1 − ``ratio``)-quantile, and is 0 below.
    """

    name = "pcb"
    summary = "PCB-Merging: entries balanced by their size within and their agreement across tasks"
    parameters = (
        Parameter("ratio", quantile, 0.05, summary="share of each task's entries that is kept"),
        Parameter("clip", quantile, 0.01, summary="quantile to which magnitudes are clipped at both ends"),
        Parameter(
            "variant",
            choice(*VARIANTS),
            "v3",
            summary="form of the agreement: `v3`, `v2` or `v1`, as in the official scripts",
        ),
        WEIGHT,
        LAMBDA,
    )

    def statistics(
        self, settings: Settings, n_models: int, place: Place, earlier: Sequence[Any]
    ) -> tuple[Statistic, ...]:
        """Clips of the magnitudes; then, of the scores that follow from them, threshold and maximum."""
        shared, total = settings.shared, place.model
        tasks = tuple(range(n_models))
        if not earlier:
            lower = min(int(exact(shared["clip"]) * total), max(total - 1, 0)) + 1
            upper = max(int((1 - exact(shared["clip"])) * total), lower)
            return tuple(
                OrderStatistic(distance_of(task), rank, scope="model") for task in tasks for rank in (lower, upper)
            )
        if len(earlier) > 2 * n_models:
            return ()
        rank = min(int((1 - exact(shared["ratio"])) * total), max(total - 1, 0)) + 1
        scores = [Field(self._formula("pcb_score", settings, earlier, task), tasks) for task in tasks]
        return (
            *(OrderStatistic(score, rank, scope="model") for score in scores),
            *(Range(score, scope="model") for score in scores),
        )

    def rule(self, settings: Settings, n_models: int, place: Place, results: Sequence[Any]) -> Formula:
        """Scores once more, and their balance."""
        return self._formula("pcb", settings, results, 0)

    def _formula(self, name: str, settings: Settings, results: Sequence[Any], task: int) -> Formula:
        weights = settings.per_model["weight"]
        n = len(weights)
        least = results[2 * n : 3 * n] or [0.0] * n
        greatest = [high for _, high in results[3 * n :]] or [0.0] * n
        rows = tuple(zip(results[: 2 * n : 2], results[1 : 2 * n : 2], weights, least, greatest, strict=True))
        variant = VARIANTS.index(settings.shared["variant"]) + 1
        return Formula(name, (variant,), (settings.shared["lambda_"],), rows, (task,))


METHODS = (Pcb(),)
