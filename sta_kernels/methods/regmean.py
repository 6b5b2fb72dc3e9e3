"""RegMean: linear layers that answer all tasks' inputs most nearly as the tasks' own layers did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.methods.base import LINALG_BYTES, Method, ModelData, Operands, Parameter, Place, Roles, Settings
from sta_kernels.methods.linear import divisor
from sta_kernels.methods.parameters import WEIGHT, nonnegative, quantile


def gram_shape(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """[in, in] of a weight [out, in]; None of anything else."""
    return (shape[1], shape[1]) if len(shape) == 2 else None


class RegMean(Method):
    """``Wᵀ = (Σ w_i·G_i)⁻¹·Σ w_i·G_i·W_iᵀ`` where models have a Gram matrix, else their average (arXiv 2212.09849).

    ``G_i = XᵀX/rows`` is of the inputs X of a linear layer, given as the model's importance; its off-diagonal entries
    are scaled by ``off_diagonal`` first. The sum is factored in float64, by Cholesky; a ``jitter``, a share of the mean
    diagonal entry, is added to each G_i on both sides, so that inputs which no task uses get the average.
    """

    name = "regmean"
    summary = "RegMean: linear layers by least squares over the tasks' inputs, all else averaged"
    parameters = (
        Parameter(
            "off_diagonal", quantile, 1.0, summary="factor of the off-diagonal entries of Gram matrices, in [0, 1]"
        ),
        WEIGHT,
        Parameter(
            "jitter", nonnegative, 1e-7, summary="share of the mean diagonal entry that is added to the diagonal"
        ),
    )
    tier = "C"
    whole = True
    data = ModelData(
        "Gram matrix", gram_shape, ("gram",), signed=True, without="averaged", written_by="sk.GramMatrices"
    )

    def prepare(self) -> None:
        """Import torch."""
        import sta_kernels.linalg  # noqa: F401

    def roles(self, settings: Settings) -> Roles:
        """Models and their Gram matrices."""
        return Roles(base=False, importance=True)

    def in_one_piece(self, settings: Settings, place: Place, has_data: bool) -> bool:
        """A layer with Gram matrices."""
        return has_data

    def workspace(self, place: Place, n_models: int) -> int:
        """Three Gram matrices and four weights in float64."""
        rows, columns = place.shape
        return 8 * (3 * columns * columns + 4 * rows * columns) + LINALG_BYTES

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
        """Solve, or average."""
        weights, shared = settings.per_model["weight"], settings.shared
        if not operands.importances:
            backend.weighted_sum(
                None,
                operands.models,
                weights=weights,
                divisor=divisor(weights, True),
                lambda_=1.0,
                out=out,
                threads=threads,
            )
            return
        from sta_kernels import linalg

        models, grams = (tuple(map(linalg.tensor_of, each)) for each in (operands.models, operands.importances))
        with linalg.one_thread():
            merged = linalg.regression_mean(
                models, grams, weights, shared["off_diagonal"], shared["jitter"], place.tensor
            )
            linalg.tensor_of(out).copy_(merged)


METHODS = (RegMean(),)
