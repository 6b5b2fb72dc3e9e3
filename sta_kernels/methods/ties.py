"""TIES-Merging: trim small changes, elect a sign at each position, average those that agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sta_kernels.errors import InputError
from sta_kernels.methods.accumulators import ALL_TIES
from sta_kernels.methods.bands import BandMethod
from sta_kernels.methods.base import Parameter, Place, Settings
from sta_kernels.methods.parameters import choice
from sta_kernels.methods.sparse import COMMON, Gate, distance_of, normalize, rescale, share_of
from sta_kernels.methods.statistics import Count, OrderStatistic, Statistic
from sta_kernels.methods.subjects import Field


class Ties(BandMethod):
    """``δ = λ·Σ_{i: sgn d_i = γ} d_i / Σ w_i``, ``d_i = w_i·trim(τ_i)``, ``γ = sgn(Σ d_i)`` (arXiv 2306.01708).

    With scope ``tensor``, as mergekit: of each tensor of n entries, exactly ``max(1, ⌊density·n⌋)`` are kept, and a sum
    of 0 elects +. With scope ``model``, as the paper and its code: a threshold over the whole model, at which all ties
    are kept, and a sum of 0 elects the sign that most positions have; where there is no such majority, nothing is kept
    at those positions (``m0: none``), or what is negative (``m0: negative``, the official code).
    """

    name = "ties"
    summary = "TIES: trim, elect a sign, average what agrees"
    elects = True
    parameters = (
        *COMMON,
        normalize(True),
        rescale("none", "l1"),
        Parameter(
            "scope",
            choice("tensor", "model"),
            "tensor",
            summary="what is trimmed together: `tensor` (mergekit), or `model` (paper)",
        ),
        Parameter(
            "m0",
            choice("none", "negative"),
            "none",
            summary="what a sum of 0 keeps without a majority: `none`, or `negative` (official code)",
        ),
    )

    def check(self, settings: Settings, n_models: int) -> None:
        """Refuse rescaling over a model."""
        if settings.shared["scope"] == "model" and settings.shared["rescale"] != "none":
            raise InputError("ties: rescale restores a tensor's norm, and needs scope: tensor")

    def band(self, settings: Settings, task: int, n_elements: int) -> tuple[int, int]:
        """From the greatest on."""
        share = settings.per_model["density"][task]
        return 0, 0 if share == 0 else max(share_of(share, n_elements), 1)

    def statistics(
        self, settings: Settings, n_models: int, place: Place, earlier: Sequence[Any]
    ) -> tuple[Statistic, ...]:
        """Thresholds, and over a model the majority of the signs."""
        if settings.shared["scope"] == "tensor":
            return super().statistics(settings, n_models, place, earlier)
        trimmed = self._trimmed(settings, n_models, place)
        if len(earlier) < len(trimmed):
            return tuple(OrderStatistic(distance_of(task), rank, scope="model") for task, rank in trimmed)
        if len(earlier) > len(trimmed):
            return ()
        # The same for every tensor of the model, as its name and place do not enter.
        gates = self.gates(settings, n_models, place, earlier)
        signs = self.formula("elected_sign", settings, place, gates, range(n_models), zero_sign=0.0)
        return (Count(Field(signs, tuple(range(n_models))), scope="model"),)

    def gates(self, settings: Settings, n_models: int, place: Place, results: Sequence[Any]) -> list[Gate]:
        """Thresholds of the tensor, or those of the model with all ties."""
        if settings.shared["scope"] == "tensor":
            return super().gates(settings, n_models, place, results)
        found = dict(zip((task for task, _ in self._trimmed(settings, n_models, place)), results, strict=False))
        shares = settings.per_model["density"]
        return [
            Gate(lower=(math.inf, 0) if shares[task] == 0 else (found[task], ALL_TIES))
            if task in found or shares[task] == 0
            else Gate()
            for task in range(n_models)
        ]

    def zero_sign(self, settings: Settings, results: Sequence[Any]) -> float:
        """+, or what the model's majority says."""
        if settings.shared["scope"] == "tensor":
            return 1.0
        majority = float(np.sign(results[-1]))
        return -1.0 if majority == 0 and settings.shared["m0"] == "negative" else majority

    def _trimmed(self, settings: Settings, n_models: int, place: Place) -> list[tuple[int, int]]:
        """Tasks that are trimmed over the model, and the rank of the least magnitude that is kept."""
        shares = settings.per_model["density"]
        return [
            (task, max(place.model - share_of(shares[task], place.model), 1))
            for task in range(n_models)
            if 0 < shares[task] < 1
        ]


METHODS = (Ties(),)
