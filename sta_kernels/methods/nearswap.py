"""Nearswap: take the other model where it is near the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.formula import Formula, FormulaSource
from sta_kernels.methods.base import REQUIRED, Method, Operands, Parameter, Place, Settings
from sta_kernels.methods.parameters import number


class Nearswap(Method):
    """``δ = ω·τ``, ``ω = t/max(|τ|, 1e-6)`` cut to [0, 1]: the model itself within t of the base (mergekit).

    Beyond, the base moves by t towards the model. A t of 0 or below leaves the base.
    """

    name = "nearswap"
    summary = "one model where it is near the base; elsewhere the base, moved towards it"
    models: tuple[int, int | None] = (1, 1)
    models_hint = "goes from base_model to one other model (t = 0 is the base)"
    parameters = (Parameter("t", number, REQUIRED, summary="distance within which the model is taken whole"),)

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
        """One formula."""
        formula = Formula("nearswap", (), (settings.shared["t"],))
        source = FormulaSource(formula, operands.models, operands.base, offset=operands.offset)
        backend.evaluate(source, out=out, threads=threads)


METHODS = (Nearswap(),)
