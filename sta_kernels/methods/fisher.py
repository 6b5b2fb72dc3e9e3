"""Fisher-weighted averaging: each parameter from the models that are sure of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sta_kernels.errors import InputError
from sta_kernels.kernels.formula import Formula
from sta_kernels.methods.base import FormulaMethod, ModelData, Parameter, Place, Roles, Settings
from sta_kernels.methods.parameters import WEIGHT, boolean, choice, nonnegative
from sta_kernels.methods.statistics import Mean, Statistic, Sum
from sta_kernels.methods.subjects import Importance, SquaredImportance


class Fisher(FormulaMethod):
    """``θ = Σ c_i·(F_i + ε_i)·θ_i / Σ c_i·(F_i + ε_i)`` (arXiv 2111.09832); the base is not read.

    F_i is the diagonal of the Fisher information, given as the model's importance. With ``normalize``,
    ``c_i = w_i/(‖F_i‖₂ + epsilon)``, the norm over the whole model, else ``c_i = w_i``. ε_i is ``epsilon`` times the
    mean of F_i over the model, or ``epsilon`` itself (``absolute``, the official code), which can swamp small values of
    F and turn the merge into plain averaging.

    The norm adds up squares in float32. Where these underflow and the epsilon does not outweigh what is lost
    (information below 1e-19 or 0 everywhere, no epsilon), the merge is refused, not made with a wrong norm.
    """

    name = "fisher"
    summary = "Fisher averaging: models weighed by their Fisher information, entry by entry"
    parameters = (
        WEIGHT,
        Parameter("normalize", boolean, False, summary="divide each model's weight by the norm of its information"),
        Parameter("epsilon", nonnegative, 1e-6, summary="added to the information"),
        Parameter("epsilon_of", choice("mean", "absolute"), "mean", summary="what epsilon is a multiple of"),
    )

    data = ModelData(measures=("fisher",), written_by="sk.FisherInformation")

    def roles(self, settings: Settings) -> Roles:
        """Models and their information."""
        return Roles(base=False, importance=True)

    def statistics(
        self, settings: Settings, n_models: int, place: Place, earlier: Sequence[Any]
    ) -> tuple[Statistic, ...]:
        """Means and squared norms over the model, as far as they are needed."""
        if earlier:
            return ()
        tasks = range(n_models)
        means = [Mean(Importance(task, "lp"), scope="model") for task in tasks]
        squares = [Sum(SquaredImportance(task), scope="model") for task in tasks]
        shared = settings.shared
        return (*(means if shared["epsilon_of"] == "mean" else ()), *(squares if shared["normalize"] else ()))

    def rule(self, settings: Settings, n_models: int, place: Place, results: Sequence[Any]) -> Formula:
        """One weighted average per position."""
        shared, weights = settings.shared, list(settings.per_model["weight"])
        found = list(results)
        epsilons = [shared["epsilon"]] * len(weights)
        if shared["epsilon_of"] == "mean":
            epsilons = [shared["epsilon"] * mean for mean in found[: len(weights)]]
            del found[: len(weights)]
        if shared["normalize"]:
            norms = [_norm(i, square, shared["epsilon"], place.model) for i, square in enumerate(found)]
            weights = [weight / norm for weight, norm in zip(weights, norms, strict=True)]
            # Factors that all share change nothing, and small sums of squares would overflow float32.
            largest = max(map(abs, weights)) or 1.0
            weights = [weight / largest for weight in weights]
        return Formula("fisher", (), (), tuple(zip(weights, epsilons, strict=True)))


def _norm(model: int, square: float, epsilon: float, n_elements: int) -> float:
    """``‖F‖₂ + ε``, by a sum of float32 squares of which each may lack 2⁻¹⁵⁰.

    Raises:
        InputError: what they lack may show.
    """
    underflows = square < n_elements * 2.0**-126
    if underflows and epsilon < math.sqrt(n_elements) * 2.0**-51:
        raise InputError(
            f"fisher: normalize: the information of model {model + 1} is so small that its squares underflow float32; "
            "multiply it by a power of 2 (its scale does not matter here), or give an epsilon"
        )
    return math.sqrt(square) + epsilon


METHODS = (Fisher(),)
