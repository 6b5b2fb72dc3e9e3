"""Weighted averaging of the models themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.methods.base import Method, Operands, Parameter, Place, Roles, Settings
from sta_kernels.methods.parameters import WEIGHT, boolean


def divisor(weights: Sequence[float], normalize: bool) -> float:
    """Sum of the weights, rounded to float32, where asked for; 1 where it is not, or where the sum is 0."""
    return (float(np.float32(math.fsum(weights))) or 1.0) if normalize else 1.0


class Linear(Method):
    """``θ = Σ_i w_i·θ_i / Σ_i w_i`` (model soups, arXiv 2203.05482; with ``normalize: false``, undivided)."""

    name = "linear"
    summary = "weighted average of the models; the base is not read"
    parameters = (WEIGHT, Parameter("normalize", boolean, True, summary="divide by the sum of the weights"))

    def roles(self, settings: Settings) -> Roles:
        """Models only."""
        return Roles(base=False)

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
        """One weighted sum."""
        backend.weighted_sum(
            None,
            operands.models,
            weights=settings.per_model["weight"],
            divisor=divisor(settings.per_model["weight"], settings.shared["normalize"]),
            lambda_=1.0,
            out=out,
            threads=threads,
        )


METHODS = (Linear(),)
