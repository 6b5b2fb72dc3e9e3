"""TALL masks and Consensus: what of the summed task vectors serves one task, and what serves several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sta_kernels.errors import InputError
from sta_kernels.kernels.formula import Formula
from sta_kernels.methods.base import REQUIRED, FormulaMethod, Parameter, Place, Settings
from sta_kernels.methods.parameters import LAMBDA, count, number

MASK_LAMBDA = Parameter(
    "mask_lambda", number, 0.4, per_model=True, summary="how much of the rest a task's own change must outweigh"
)


class Consensus(FormulaMethod):
    """``δ = λ·τ_M ⊙ [Σ_t m_t ≥ k]``, ``m_t = [|τ_t| > λ_t·|τ_M − τ_t|]``, ``τ_M = Σ τ_t`` (arXiv 2405.07813)."""

    name = "consensus"
    summary = "Consensus: add up task vectors where the sum serves at least k tasks"
    parameters = (Parameter("k", count, 2, summary="number of tasks that must agree"), MASK_LAMBDA, LAMBDA)

    def check(self, settings: Settings, n_models: int) -> None:
        """No more tasks can agree than there are."""
        if settings.shared["k"] > n_models:
            raise InputError(f"consensus: k: {settings.shared['k']} tasks of {n_models} cannot agree")

    def asked(self, settings: Settings, n_models: int) -> tuple[list[bool], int]:
        """Tasks whose masks count, and how many of them must agree."""
        return [True] * n_models, settings.shared["k"]

    def rule(self, settings: Settings, n_models: int, place: Place, results: Sequence[Any]) -> Formula:
        """Sum, masks and their count at each position; no mask is stored."""
        asked, least = self.asked(settings, n_models)
        rows = tuple(zip(settings.per_model["mask_lambda"], map(float, asked), strict=True))
        return Formula("agreement", (), (settings.shared["lambda_"],), rows, (least,))


class TallMask(Consensus):
    """``θ = θ0 + λ·m_t ⊙ τ_M``: one task's model, restored from the sum of all by its mask (arXiv 2405.07813)."""

    name = "tall_mask"
    summary = "TALL masks: restore one task's model from the sum of all task vectors"
    parameters = (Parameter("task", count, REQUIRED, summary="which of the models, from 0"), MASK_LAMBDA, LAMBDA)

    def check(self, settings: Settings, n_models: int) -> None:
        """The task is one of the models."""
        if settings.shared["task"] >= n_models:
            raise InputError(f"tall_mask: task: {settings.shared['task']}, but the {n_models} models count from 0")

    def asked(self, settings: Settings, n_models: int) -> tuple[list[bool], int]:
        """The one task's."""
        return [task == settings.shared["task"] for task in range(n_models)], 1


METHODS = (Consensus(), TallMask())
