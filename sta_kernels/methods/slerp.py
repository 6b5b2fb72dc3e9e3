"""Merging along arcs: SLERP between a base and a model, its normalised form, and its form for many models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sta_kernels.errors import InputError
from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.methods.base import REQUIRED, Method, Operands, Parameter, Place, Roles, Settings
from sta_kernels.methods.conversion import convert
from sta_kernels.methods.gram import BASE, Array, cosine, gram, gram_statistics, norms
from sta_kernels.methods.parameters import WEIGHT, boolean, nonnegative, number
from sta_kernels.methods.rows import gram_bytes, row_gram, scaled_sum
from sta_kernels.methods.statistics import Statistic

_STRAIGHT = 0.9995
_NO_LENGTH = 1e-8
_LEAST_LENGTH = 1e-7
_COLLINEAR = 2.0**-25
"""``1 − cos²`` at and below which mergekit's float32 finds 0."""


def arc(cosines: Array, t: float, straight: Array) -> Array:
    """Factors of two points at t between them: ``sin((1 − t)·θ)/sin θ`` and ``sin(t·θ)/sin θ``.

    Args:
        cosines: of the angle θ, [R].
        t: any number.
        straight: where the factors are ``1 − t`` and ``t``, [R].

    Returns:
        [2, R].
    """
    angles = np.where(straight, math.pi / 2, np.arccos(cosines))
    return np.where(
        straight, np.array([[1 - t], [t]]), np.sin(np.array([(1 - t) * angles, t * angles])) / np.sin(angles)
    )


class Slerp(Method):
    """``θ = (sin((1 − t)·ϑ)·θ0 + sin(t·ϑ)·θ_1)/sin ϑ``, ϑ the angle between base and model as vectors (mergekit).

    The vectors themselves are combined, not their directions; straight, ``(1 − t)·θ0 + t·θ_1``, where |cos ϑ| exceeds
    0.9995. A norm up to 1e-8 counts as 1.
    """

    name = "slerp"
    summary = "spherical interpolation from the base to one model"
    models: tuple[int, int | None] = (1, 1)
    models_hint = "goes from base_model to one other model (t = 0 is the base)"
    tier = "B"
    parameters = (Parameter("t", number, REQUIRED, summary="0: the base; 1: the model"),)

    def statistics(
        self, settings: Settings, n_models: int, place: Place, earlier: Sequence[Any]
    ) -> tuple[Statistic, ...]:
        """Norms and dot of the weights."""
        return () if earlier else gram_statistics((BASE, 0))

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
        assert operands.base is not None
        dots = gram(results, 2)
        lengths = norms(dots)
        cosines = cosine(dots, np.where(lengths > _NO_LENGTH, lengths, 1.0), 0, 1)
        weights = arc(cosines, settings.shared["t"], np.abs(cosines) > _STRAIGHT)[:, 0].tolist()
        models = (operands.base, *operands.models)
        backend.weighted_sum(None, models, weights=weights, divisor=1.0, lambda_=1.0, out=out, threads=threads)


class Nuslerp(Method):
    """SLERP of two models at ``t = w_2/(w_1 + w_2)``; with a base, of their task vectors, added to it (mergekit).

    t is ½ where the weights' sum is below 1e-6. Straight where the vectors are collinear in float32, opposites
    included; a norm below 1e-7 counts as that.
    """

    name = "nuslerp"
    summary = "spherical interpolation between two models, or between their task vectors"
    models: tuple[int, int | None] = (2, 2)
    tier = "B"
    parameters = (
        WEIGHT,
        Parameter("nuslerp_flatten", boolean, True, summary="one angle for the tensor"),
        Parameter(
            "nuslerp_row_wise",
            boolean,
            False,
            summary="where not flattened: an angle per column (along the first axis), not per row (along the last)",
        ),
    )

    def roles(self, settings: Settings) -> Roles:
        """The base is the origin, where there is one."""
        return Roles(base_optional=True)

    def statistics(
        self, settings: Settings, n_models: int, place: Place, earlier: Sequence[Any]
    ) -> tuple[Statistic, ...]:
        """Norms and dot, where there is one angle."""
        return () if earlier or not settings.shared["nuslerp_flatten"] else gram_statistics((0, 1), centred=True)

    def in_one_piece(self, settings: Settings, place: Place, has_data: bool) -> bool:
        """Where rows have their own angle."""
        return not settings.shared["nuslerp_flatten"]

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
        """One weighted sum, or one with factors per row."""
        if settings.shared["nuslerp_flatten"]:
            weights = self._factors(settings, gram(results, 2))[:, 0].tolist()
            backend.weighted_sum(
                operands.base,
                operands.models,
                weights=weights,
                divisor=1.0,
                lambda_=1.0,
                out=out,
                threads=threads,
            )
        elif out.size:
            axis = 0 if settings.shared["nuslerp_row_wise"] and len(place.shape) > 1 else -1
            dots = row_gram(backend, operands, (0, 1), place.shape, axis, centred=True)
            factors = self._factors(settings, dots)
            scaled_sum(backend, operands, factors, place.shape, axis, centred=True, out=out, threads=threads)

    def _factors(self, settings: Settings, dots: Array) -> Array:
        first, second = settings.per_model["weight"]
        total = first + second
        t = 0.5 if abs(total) < 1e-6 else second / total
        cosines = cosine(dots, np.maximum(norms(dots), _LEAST_LENGTH), 0, 1)
        return arc(cosines, t, 1 - cosines**2 <= _COLLINEAR)


class Multislerp(Method):
    """``θ = μ·Σ w_i·‖θ_i‖``, μ the direction of ``Σ w_i·θ_i/(‖θ_i‖ + ε)``; with a base, of the τ_i, added to it.

    mergekit then follows the tangent at μ, but the mean of the tangents is 0 there. A single model is itself. Where
    that sum is shorter than ε, two models are added straight, and more are refused, unless all of them are 0 (which
    mergekit refuses too).
    """

    name = "multislerp"
    summary = "direction of the mean direction, length of the mean length, of models or of task vectors"
    tier = "B"
    parameters = (
        WEIGHT,
        Parameter("normalize_weights", boolean, True, summary="divide the weights by their sum"),
        Parameter("eps", nonnegative, 1e-8, summary="ε: added to norms; the length below which a sum has no direction"),
    )

    def roles(self, settings: Settings) -> Roles:
        """The base is the origin, where there is one."""
        return Roles(base_optional=True)

    def check(self, settings: Settings, n_models: int) -> None:
        """Weights that sum to 0 cannot be divided by their sum."""
        if n_models > 1 and settings.shared["normalize_weights"] and not math.fsum(settings.per_model["weight"]):
            raise InputError("multislerp: the weights sum to 0; change them, or say normalize_weights: false")

    def statistics(
        self, settings: Settings, n_models: int, place: Place, earlier: Sequence[Any]
    ) -> tuple[Statistic, ...]:
        """Norms and dots; none of a single model."""
        return () if earlier or n_models == 1 else gram_statistics(range(n_models), centred=True)

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
        if len(operands.models) == 1:
            convert(backend, operands.models[0], out, threads=threads)
            return
        weights = self._factors(settings, gram(results, len(operands.models))[:, :, 0], place)
        backend.weighted_sum(
            operands.base, operands.models, weights=weights, divisor=1.0, lambda_=1.0, out=out, threads=threads
        )

    def _factors(self, settings: Settings, dots: Array, place: Place) -> list[float]:
        eps, weights = settings.shared["eps"], settings.per_model["weight"]
        if settings.shared["normalize_weights"]:
            total = math.fsum(weights)
            weights = tuple(weight / total for weight in weights)
        lengths = [math.sqrt(dots[i, i]) for i in range(len(weights))]
        sizes = [length + eps for length in lengths]
        directions = [weight / size if size else 0.0 for weight, size in zip(weights, sizes, strict=True)]
        n = range(len(weights))
        square = math.fsum(directions[i] * directions[j] * dots[i, j] for i in n for j in n)
        length = math.sqrt(max(square, 0.0))
        if length > 0 and length >= eps:
            mean = math.fsum(weight * each for weight, each in zip(weights, lengths, strict=True))
            return [direction / length * mean for direction in directions]
        if len(weights) > 2 and any(lengths):
            raise InputError(f"multislerp: {place.tensor!r}: the directions of the models cancel; their mean has none")
        return list(weights)


METHODS = (Slerp(), Nuslerp(), Multislerp())
