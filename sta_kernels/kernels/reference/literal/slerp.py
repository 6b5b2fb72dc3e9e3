"""Merging along arcs: SLERP, its normalised and its many-model forms, and the mean on the sphere (mergekit's)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sta_kernels.kernels.reference.literal.common import Array, per_task, task_vectors

_COLLINEAR = 2.0**-25
"""What mergekit's bound of 1e-16 amounts to in its float32: cos² rounds to 1. In float64 it would miss opposites."""


def arc_literal(start: Array, end: Array, t: float, angle: float) -> Array:
    """``(sin((1 − t)·θ)·a + sin(t·θ)·b)/sin θ``."""
    return (np.sin((1 - t) * angle) * start + np.sin(t * angle) * end) / np.sin(angle)


def slerp_literal(base: Array, other: Array, t: float) -> Array:
    """From the base (t = 0) to the other model (t = 1), by the angle θ between the weights as vectors.

    The vectors themselves are combined, not their directions. Straight, ``(1 − t)·a + t·b``, where |cos θ| > 0.9995.

    Args:
        base: a, one tensor.
        other: b, same shape.
        t: any number.

    Returns:
        float64, same shape.
    """
    start, end = np.asarray(base, np.float64), np.asarray(other, np.float64)
    a, b = (vector.ravel() / (norm if norm > 1e-8 else 1.0) for vector, norm in _with_norms(start, end))
    cosine = np.clip(a @ b, -1.0, 1.0)
    if abs(cosine) > 0.9995:
        return (1 - t) * start + t * end
    return arc_literal(start, end, t, float(np.arccos(cosine)))


def nuslerp_literal(
    base: Array | None,
    finetuned: Array,
    weights: Sequence[float] = (1.0, 1.0),
    flatten: bool = True,
    row_wise: bool = False,
) -> Array:
    """Between two models at ``t = w_2/(w_1 + w_2)``; between their task vectors, added to θ0, with a base.

    t is ½ where the weights' sum is below 1e-6. Straight where ``1 − cos² ≤ 2⁻²⁵``, also between opposites.

    Args:
        base: θ0, one tensor, or None.
        finetuned: θ_1 and θ_2, [2, ...].
        weights: w_1 and w_2.
        flatten: one angle for the tensor.
        row_wise: where it is not flattened, an angle for every column (along the first axis); else for every row
            (along the last). The names are mergekit's.

    Returns:
        float64 [...].
    """
    vectors = np.asarray(finetuned, np.float64) if base is None else task_vectors(base, finetuned)[1]
    total = weights[0] + weights[1]
    t = 0.5 if abs(total) < 1e-6 else weights[1] / total
    axis = 0 if row_wise else -1
    rows = [vector.reshape(1, -1) if flatten else np.moveaxis(np.atleast_1d(vector), axis, -1) for vector in vectors]
    merged = np.empty(rows[0].shape)
    for index in np.ndindex(rows[0].shape[:-1]):
        a, b = rows[0][index], rows[1][index]
        (_, size_a), (_, size_b) = _with_norms(a, b)
        cosine = np.clip(a @ b / (max(size_a, 1e-7) * max(size_b, 1e-7)), -1.0, 1.0)
        straight = 1 - cosine**2 <= _COLLINEAR
        merged[index] = (1 - t) * a + t * b if straight else arc_literal(a, b, t, np.arccos(cosine))
    merged = merged.reshape(vectors[0].shape) if flatten else np.moveaxis(merged, -1, axis).reshape(vectors[0].shape)
    return merged if base is None else np.asarray(base, np.float64) + merged


def multislerp_literal(
    base: Array | None,
    finetuned: Array,
    weights: Sequence[float] | None = None,
    normalize_weights: bool = True,
    eps: float = 1e-8,
) -> Array:
    """Many models at once: direction of the mean direction, length of the mean length; task vectors with a base.

    ``u_i = x_i/(‖x_i‖ + ε)``, ``M = Σ w_i·u_i``, ``μ = M/‖M‖``; result ``μ·Σ w_i·‖x_i‖``. mergekit then follows the
    tangent ``T = Σ w_i·(u_i − (u_i·μ)·μ)``, but ``T = M − (M·μ)·μ = 0``: the step is one of rounding. One model is
    itself; two opposite ones are added straight.

    Args:
        base: θ0, one tensor, or None.
        finetuned: θ_i, [N, ...].
        weights: one per model; None: all 1.
        normalize_weights: to sum 1.
        eps: ε; a mean direction below it is none.

    Returns:
        float64 [...].

    Raises:
        ValueError: more than two models that cancel.
    """
    models = np.asarray(finetuned, np.float64)
    if len(models) == 1:
        return models[0]
    start = np.zeros(models.shape[1:]) if base is None else np.asarray(base, np.float64)
    x = (models - start).reshape(len(models), -1)
    w = per_task(weights, x)
    w = w / w.sum() if normalize_weights else w
    norms = np.sqrt((x**2).sum(axis=1, keepdims=True))
    units = x / (norms + eps)
    mean = (w * units).sum(axis=0)
    size = np.linalg.norm(mean)
    if size < eps:
        if len(models) > 2:
            raise ValueError("the directions of the models cancel: their mean has none")
        return start + (w * x).sum(axis=0).reshape(start.shape)
    return start + (mean / size * (w * norms).sum()).reshape(start.shape)


def karcher_literal(models: Array, max_iter: int = 10, tol: float = 1e-5) -> Array:
    """Mean of the directions on the sphere, scaled by the mean norm; the base is a model like any other.

    From the normalised mean m of the directions u_i: ``T = Σ α·(θ_i/sin θ_i)·(u_i − cos θ_i·m)`` over those with
    ``θ_i = ∠(m, u_i) > tol``, ``m ← cos‖T‖·m + sin‖T‖·T/‖T‖``, until ``‖T‖ ≤ tol``. Models of norm up to tol have no
    direction, but count in the mean norm. Where the directions cancel, the first is the beginning.

    Args:
        models: θ_i, [N, ...].
        max_iter: most steps.
        tol: of angles, steps and norms.

    Returns:
        float64 [...]; 0 where no model has a direction.
    """
    models = np.asarray(models, np.float64)
    if len(models) == 1:
        return models[0]
    x = models.reshape(len(models), -1)
    norms = np.sqrt((x**2).sum(axis=1))
    units = x[norms > tol] / norms[norms > tol, None]
    if len(units) == 0:
        return np.zeros(models.shape[1:])
    mean = units.mean(axis=0)
    mean = units[0] if np.linalg.norm(mean) <= tol else mean / np.linalg.norm(mean)
    for _ in range(max_iter):
        step = np.zeros(mean.size)
        for unit in units:
            cosine = np.clip(mean @ unit, -1.0, 1.0)
            angle = np.arccos(cosine)
            if angle > tol:
                step += angle / np.sin(angle) * (unit - cosine * mean) / len(units)
        length = np.linalg.norm(step)
        if length <= tol:
            break
        mean = np.cos(length) * mean + np.sin(length) * step / length
        mean = mean / np.linalg.norm(mean)
    return (norms.mean() * mean).reshape(models.shape[1:])


def _with_norms(*vectors: Array) -> list[tuple[Array, float]]:
    return [(vector, float(np.sqrt((vector**2).sum()))) for vector in vectors]
