"""Task arithmetic: add up what the models learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.methods.base import Method, Operands, Parameter, Place, Settings
from sta_kernels.methods.linear import divisor
from sta_kernels.methods.parameters import LAMBDA, WEIGHT, boolean


class TaskArithmetic(Method):
    """``θ = θ0 + λ·Σ_i w_i·τ_i``, divided by ``Σ_i w_i`` where normalised (arXiv 2212.04089)."""

    name = "task_arithmetic"
    summary = "base plus λ times the weighted sum of the task vectors"
    parameters = (
        WEIGHT,
        LAMBDA,
        Parameter("normalize", boolean, False, summary="divide by the sum of the weights"),
        Parameter("int8_mask", boolean, False, summary="accepted, as by mergekit, without effect"),
    )

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
        """One weighted sum of differences."""
        assert operands.base is not None
        backend.weighted_sum(
            operands.base,
            operands.models,
            weights=settings.per_model["weight"],
            divisor=divisor(settings.per_model["weight"], settings.shared["normalize"]),
            lambda_=settings.shared["lambda_"],
            out=out,
            threads=threads,
        )


METHODS = (TaskArithmetic(),)
