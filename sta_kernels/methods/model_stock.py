"""Model Stock: as far from the base as the task vectors agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.methods.base import Method, Operands, Parameter, Place, Settings
from sta_kernels.methods.gram import Array, cosine, gram, gram_statistics, norms
from sta_kernels.methods.parameters import boolean
from sta_kernels.methods.rows import gram_bytes, row_gram, scaled_sum
from sta_kernels.methods.statistics import Statistic


def ratio(dots: Array) -> Array:
    """``t = N·c/(1 + (N − 1)·c)``, c the mean cosine of the pairs, cut to [0, 1].

    Args:
        dots: of the task vectors, [N, N, R].

    Returns:
        [R].
    """
    n, lengths = len(dots), norms(dots)
    cosines = [cosine(dots, lengths, i, j) for i, j in combinations(range(n), 2)]
    mean = np.clip(np.mean(cosines, axis=0), 0.0, 1.0)
    return np.asarray(n * mean / (1 + (n - 1) * mean))


class ModelStock(Method):
    """``θ = θ0 + t·mean τ_i``, ``t = N·c/(1 + (N − 1)·c)``, c the mean cosine of the τ_i (arXiv 2403.19522).

    c is cut to [0, 1]. mergekit does not: a negative c leads it beyond the base, without bound near −1/(N − 1). Nor has
    the cosine mergekit's floor of 1e-6 under the product of the norms, which makes small task vectors look orthogonal;
    one of length 0 is orthogonal to all.
    """

    name = "model_stock"
    summary = "Model Stock: base plus the mean task vector, times how far they agree"
    models: tuple[int, int | None] = (2, None)
    tier = "B"
    parameters = (
        Parameter("filter_wise", boolean, False, summary="t for every row along the last axis, not for the tensor"),
    )

    def statistics(
        self, settings: Settings, n_models: int, place: Place, earlier: Sequence[Any]
    ) -> tuple[Statistic, ...]:
        """Dots of the task vectors, unless every row has its own."""
        return () if earlier or settings.shared["filter_wise"] else gram_statistics(range(n_models), centred=True)

    def in_one_piece(self, settings: Settings, place: Place, has_data: bool) -> bool:
        """Where rows have their own t."""
        return bool(settings.shared["filter_wise"])

    def workspace(self, place: Place, n_models: int) -> int:
        """Of the row-wise form."""
        return gram_bytes(n_models, place.shape)

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
        """One weighted sum, or one with a factor per row."""
        n = len(operands.models)
        if not settings.shared["filter_wise"]:
            (t,) = ratio(gram(results, n)).tolist()
            backend.weighted_sum(
                operands.base,
                operands.models,
                weights=(1.0,) * n,
                divisor=float(n),
                lambda_=t,
                out=out,
                threads=threads,
            )
        elif out.size:
            dots = row_gram(backend, operands, range(n), place.shape, -1, centred=True)
            factors = np.broadcast_to(ratio(dots) / n, (n, dots.shape[-1]))
            scaled_sum(backend, operands, factors, place.shape, -1, centred=True, out=out, threads=threads)


METHODS = (ModelStock(),)
