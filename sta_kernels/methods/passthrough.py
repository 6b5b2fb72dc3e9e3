"""Passthrough: one model's tensors as they are, for stacking layers of several models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.methods.base import Method, Operands, Parameter, Place, Roles, Settings
from sta_kernels.methods.conversion import convert
from sta_kernels.methods.parameters import number


class Passthrough(Method):
    """``θ = θ_1``, or ``scale·θ_1`` (mergekit's passthrough)."""

    name = "passthrough"
    summary = "one model's values, scaled where asked for; with slices, layers of several models in one stack"
    models: tuple[int, int | None] = (1, 1)
    models_hint = "takes one model per slice; to stack layers of several, use `slices`, one for each"
    parameters = (Parameter("scale", number, None, per_model=True, summary="factor; without it, values are copied"),)

    def roles(self, settings: Settings) -> Roles:
        """The model only."""
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
        """A conversion, exact where the dtype stays; with a scale, one rounded product."""
        (scale,) = settings.per_model["scale"]
        if scale is None:
            convert(backend, operands.models[0], out, threads=threads)
            return
        backend.weighted_sum(
            None, operands.models, weights=(scale,), divisor=1.0, lambda_=1.0, out=out, threads=threads
        )


METHODS = (Passthrough(),)
