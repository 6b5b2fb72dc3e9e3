"""Fisher-weighted averaging (arXiv 2111.09832)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sta_kernels.kernels.reference.literal.common import Array, per_task


def fisher_estimate_literal(probabilities: Array, gradients: Array) -> Array:
    """Diagonal Fisher information, ``F = mean_x Σ_y p_y·(∂ log p_y)²``: squared per sample and per class.

    Args:
        probabilities: p_y, [samples, classes].
        gradients: ∂ log p_y, [samples, classes, ...].

    Returns:
        F, float64 [...].
    """
    squares = np.asarray(gradients, np.float64) ** 2
    return np.einsum("sc,sc...->...", np.asarray(probabilities, np.float64), squares) / len(squares)


def fisher_literal(
    finetuned: Array,
    fishers: Array,
    weights: Sequence[float] | None = None,
    normalize: bool = False,
    epsilon: float = 1e-6,
    relative: bool = True,
) -> Array:
    """``θ = Σ c_i·(F_i + ε_i)·θ_i / Σ c_i·(F_i + ε_i)``.

    Normalised, ``c_i = w_i/(‖F_i‖₂ + ε_i)`` instead of w_i; the norm is that of the whole model, before ε is added. A
    position whose divisor is 0 (no task has information anywhere) takes the average by w_i.

    Args:
        finetuned: θ_i, [N, ...], whole models.
        fishers: F_i, [N, ...], not negative.
        weights: w_i; None: all 1.
        normalize: give every task's information the same norm.
        epsilon: ε.
        relative: ``ε_i = ε·mean F_i``; else ε itself, as the official code has it.

    Returns:
        float64 [...].
    """
    finetuned, fishers = np.asarray(finetuned, np.float64), np.asarray(fishers, np.float64)
    rows = fishers.reshape(len(fishers), -1)
    floor = epsilon * (rows.mean(axis=1) if relative else np.ones(len(rows)))
    plain = per_task(weights, fishers)
    scale = plain
    if normalize:
        size = np.sqrt((rows**2).sum(axis=1)) + floor
        scale = plain / per_task(np.where(size == 0, 1.0, size), fishers)
    shares = scale * (fishers + per_task(floor, fishers))
    shares = np.where(shares.sum(axis=0) == 0, plain, shares)
    return (shares * finetuned).sum(axis=0) / shares.sum(axis=0)
