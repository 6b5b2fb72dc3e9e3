"""The Karcher mean: the centre of the models' directions on the sphere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.methods.base import Method, Operands, Parameter, Place, Roles, Settings
from sta_kernels.methods.conversion import convert
from sta_kernels.methods.gram import Array, gram, gram_statistics
from sta_kernels.methods.parameters import count, nonnegative
from sta_kernels.methods.statistics import Statistic


def _length(combination: Array, cosines: Array) -> float:
    """Norm of a combination of unit vectors, by their cosines."""
    return math.sqrt(max(float(combination @ cosines @ combination), 0.0))


def centre(cosines: Array, max_iter: int, tol: float) -> Array:
    """The mean of directions on the sphere, as a combination of them.

    From their normalised mean m: ``T = Σ (ϑ_i/sin ϑ_i)·(u_i − cos ϑ_i·m)/n`` over those at an angle ``ϑ_i > tol``,
    ``m ← cos‖T‖·m + sin‖T‖·T/‖T‖``, until ``‖T‖ ≤ tol``. Where the directions cancel, the first is the beginning.

    Args:
        cosines: of the directions, [n, n], n ≥ 1.
        max_iter: most steps.
        tol: of angles, steps and lengths, 0 or more; what is just as long has no direction.

    Returns:
        Factors of the directions, [n].
    """
    n = len(cosines)
    mean = np.full(n, 1 / n)
    size = _length(mean, cosines)
    mean = np.eye(n)[0] if size <= tol else mean / size
    for _ in range(max_iter):
        along = np.clip(cosines @ mean, -1.0, 1.0)
        angles = np.arccos(along)
        far = angles > tol
        pull = np.where(far, angles / np.where(far, np.sin(angles), 1.0), 0.0) / n
        step = pull - (pull @ along) * mean
        size = _length(step, cosines)
        if size <= tol:
            break
        mean = math.cos(size) * mean + math.sin(size) / size * step
        length = _length(mean, cosines)
        mean = mean / length if length > tol else mean
    return np.asarray(mean)


class Karcher(Method):
    """``θ = m·mean ‖θ_i‖``, m the mean of the directions ``θ_i/‖θ_i‖`` on the sphere (mergekit's karcher).

    Every model counts alike, and with mergekit a recipe's base is one of them. The iteration runs on the cosines of the
    models, not on vectors. A norm up to ``tol`` has no direction, but counts in the mean norm; where none has one, the
    result is 0. A single model is itself.
    """

    name = "karcher"
    summary = "Karcher mean: the centre of the models' directions, times their mean norm"
    tier = "B"
    base_is_model = True
    parameters = (
        Parameter("max_iter", count, 10, summary="most iterations"),
        Parameter("tol", nonnegative, 1e-5, summary="angle and step that end iterations, norm that has no direction"),
    )

    def roles(self, settings: Settings) -> Roles:
        """Models only."""
        return Roles(base=False)

    def statistics(
        self, settings: Settings, n_models: int, place: Place, earlier: Sequence[Any]
    ) -> tuple[Statistic, ...]:
        """Norms and dots of the weights; none of a single model."""
        return () if earlier or n_models == 1 else gram_statistics(range(n_models))

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
        n, shared = len(operands.models), settings.shared
        if n == 1:
            convert(backend, operands.models[0], out, threads=threads)
            return
        weights = factors(gram(results, n)[:, :, 0], shared["max_iter"], shared["tol"])
        backend.weighted_sum(
            None, operands.models, weights=weights.tolist(), divisor=1.0, lambda_=1.0, out=out, threads=threads
        )


def factors(dots: Array, max_iter: int, tol: float) -> Array:
    """What each model is multiplied by: [N, N] to [N]."""
    lengths = np.sqrt(np.diagonal(dots))
    merged = np.zeros(len(lengths))
    valid = np.flatnonzero(lengths > tol)
    if valid.size:
        sizes = lengths[valid]
        cosines = np.clip(dots[np.ix_(valid, valid)] / np.outer(sizes, sizes), -1.0, 1.0)
        np.fill_diagonal(cosines, 1.0)
        merged[valid] = centre(cosines, max_iter, tol) / sizes * lengths.mean()
    return merged


METHODS = (Karcher(),)
