"""Nearswap: take the other model where it is near the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sta_kernels.kernels.formula import Formula
from sta_kernels.methods.base import REQUIRED, FormulaMethod, Parameter, Place, Settings
from sta_kernels.methods.parameters import number


class Nearswap(FormulaMethod):
    """``δ = ω·τ``, ``ω = t/max(|τ|, 1e-6)`` cut to [0, 1]: the model itself within t of the base (mergekit).

    Beyond, the base moves by t towards the model. A t of 0 or below leaves the base.
    """

    name = "nearswap"
    summary = "one model where it is near the base; elsewhere the base, moved towards it"
    models: tuple[int, int | None] = (1, 1)
    models_hint = "goes from base_model to one other model (t = 0 is the base)"
    parameters = (Parameter("t", number, REQUIRED, summary="distance within which the model is taken whole"),)

    def rule(self, settings: Settings, n_models: int, place: Place, results: Sequence[Any]) -> Formula:
        """Near entries swapped, far ones drawn nearer."""
        return Formula("nearswap", (), (settings.shared["t"],))


METHODS = (Nearswap(),)
