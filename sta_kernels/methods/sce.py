"""SCE: select what differs between the models, weigh models by how much they changed, erase minority signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sta_kernels.errors import warn_caller
from sta_kernels.kernels.formula import Formula
from sta_kernels.methods.base import FormulaMethod, Parameter, Place, Settings
from sta_kernels.methods.parameters import LAMBDA, quantile
from sta_kernels.methods.sparse import INT8_MASK, share_of
from sta_kernels.methods.statistics import Greater, OrderStatistic, Statistic, Sum, TieCut
from sta_kernels.methods.subjects import Field


class Sce(FormulaMethod):
    """``δ = λ·Σ w_i·τ_i / Σ w_i`` over the tasks of the majority sign, where the variance is great (arXiv 2408.07990).

    Of the Z entries of a tensor at which the models differ, the ``⌊select_topk·Z⌋`` of greatest variance over the tasks
    are selected, all where it is 1. ``w_i`` is the mean of the selected τ_i², over the sum of these; equal weights
    where that sum is 0. A sum of 0 elects the sign +.
    """

    name = "sce"
    summary = "SCE: select by variance, weigh by energy, erase minority signs"
    parameters = (
        Parameter("select_topk", quantile, 1.0, summary="share of the entries that differ, greatest variance first"),
        LAMBDA,
        INT8_MASK,
    )

    def check(self, settings: Settings, n_models: int) -> None:
        """Warn where nothing can be selected."""
        if n_models == 1 and self._selects(settings):
            warn_caller("sce: a single model differs from no other, so the result is the base; use select_topk: 1")

    def statistics(
        self, settings: Settings, n_models: int, place: Place, earlier: Sequence[Any]
    ) -> tuple[Statistic, ...]:
        """How many entries differ, the variance that is just selected, where its ties end, and the energies."""
        tasks = tuple(range(n_models))
        variance = Field(Formula("variance"), tasks)
        rounds = 3 if self._selects(settings) else 0
        if len(earlier) == rounds:
            selected = self._selected(settings, earlier)
            return tuple(Sum(Field(self._formula("sce_energy", *selected, task=task), tasks)) for task in tasks)
        if len(earlier) > rounds:
            return ()
        if not earlier:
            return (Greater(variance, 0.0),)
        wanted = share_of(settings.shared["select_topk"], int(earlier[0]))
        if len(earlier) == 1:
            return (OrderStatistic(variance, max(place.size - max(wanted, 1) + 1, 1)),)
        return (TieCut(variance, earlier[1], wanted),)

    def rule(self, settings: Settings, n_models: int, place: Place, results: Sequence[Any]) -> Formula:
        """Select, elect, average."""
        threshold, cut = self._selected(settings, results)
        energies = results[-n_models:]
        total = sum(energies)
        weights = [energy / total for energy in energies] if total > 0 else [1 / n_models] * n_models
        return self._formula("sce", threshold, cut, settings.shared["lambda_"], weights)

    def _selects(self, settings: Settings) -> bool:
        return bool(settings.shared["select_topk"] < 1)

    def _selected(self, settings: Settings, results: Sequence[Any]) -> tuple[float, int]:
        """(threshold, cut) that the variance of what is selected is above."""
        return (results[1], results[2]) if self._selects(settings) else (-1.0, 0)

    def _formula(
        self,
        name: str,
        threshold: float,
        cut: int,
        lambda_: float = 1.0,
        weights: Sequence[float] = (),
        task: int = 0,
    ) -> Formula:
        return Formula(name, (), (lambda_, threshold), tuple((weight,) for weight in weights), (cut, task))


METHODS = (Sce(),)
