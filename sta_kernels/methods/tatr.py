"""Task arithmetic in the trust region: leave out what would hurt other tasks most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sta_kernels.errors import warn_caller
from sta_kernels.kernels.formula import Formula
from sta_kernels.methods.base import FormulaMethod, ModelData, Parameter, Place, Roles, Settings
from sta_kernels.methods.parameters import WEIGHT, boolean, number, quantile
from sta_kernels.methods.quantile import exact
from sta_kernels.methods.statistics import OrderStatistic, Statistic
from sta_kernels.methods.subjects import Field


class Tatr(FormulaMethod):
    """``δ = λ·Σ w_i·τ_i`` where ``Ω = Σ_{i≠j} |ḡ_i|·|τ_j|`` is below its q-quantile over the model (arXiv 2501.15065).

    ḡ_i is the mean over samples of |∇L_i| at the base, given as the model's importance; zero-shot, |τ_i| stands for it.
    The threshold is ``sorted(Ω)[min(⌊q·D⌋, D − 1)]`` of all D entries, and what equals it is left out.
    """

    name = "tatr"
    summary = "TATR: task arithmetic without the entries that would hurt other tasks most"
    parameters = (
        Parameter("quantile", quantile, 0.99, summary="share of the model's entries that is added"),
        Parameter("zero_shot", boolean, False, summary="use |τ| where no gradients at the base were gathered"),
        WEIGHT,
        Parameter("lambda_", number, 0.3, summary="factor of the sum over the models"),
    )

    data = ModelData(
        measures=("gradient",),
        written_by='sk.importance(…, measure="gradient") of the base',
        instead=("zero_shot", True),
    )

    def check(self, settings: Settings, n_models: int) -> None:
        """Warn where there is no other task that a change could hurt."""
        if n_models == 1:
            warn_caller("tatr: a single model has no conflict below the quantile, so the result is the base")

    def roles(self, settings: Settings) -> Roles:
        """Base and models; gradients unless zero-shot."""
        return Roles(importance=not settings.shared["zero_shot"])

    def statistics(
        self, settings: Settings, n_models: int, place: Place, earlier: Sequence[Any]
    ) -> tuple[Statistic, ...]:
        """The threshold over the model."""
        if earlier:
            return ()
        zero_shot = settings.shared["zero_shot"]
        below = int(exact(settings.shared["quantile"]) * place.model)
        models = tuple(range(n_models))
        conflict = Field(Formula("conflict", (int(zero_shot),)), models, importances=() if zero_shot else models)
        return (OrderStatistic(conflict, max(min(below, place.model - 1), 0) + 1, scope="model"),)

    def rule(self, settings: Settings, n_models: int, place: Place, results: Sequence[Any]) -> Formula:
        """Compare, add."""
        shared = settings.shared
        rows = tuple((weight,) for weight in settings.per_model["weight"])
        return Formula("trust_region", (int(shared["zero_shot"]),), (shared["lambda_"], results[0]), rows)


METHODS = (Tatr(),)
