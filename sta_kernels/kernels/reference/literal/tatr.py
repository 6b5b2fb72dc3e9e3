"""TATR (arXiv 2501.15065): task arithmetic within the trust region, where tasks do not disturb one another."""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.literal.common import Array, Ratio, floor_of, task_vectors


def sensitivity_literal(tau: Array, gradients: Array | None = None) -> Array:
    """``Ω = Σ_{i≠j} |ḡ_i|·|τ_j|``, pair by pair.

    Args:
        tau: τ_j, [N, ...].
        gradients: ḡ_i, [N, ...]: mean over the samples of the per-sample |∇L_i(θ0)|; None: |τ_i| (zero-shot).

    Returns:
        float64 [...].
    """
    sizes = np.abs(np.asarray(tau, np.float64))
    slopes = sizes if gradients is None else np.abs(np.asarray(gradients, np.float64))
    omega = np.zeros(sizes.shape[1:])
    for i, slope in enumerate(slopes):
        for j, size in enumerate(sizes):
            if i != j:
                omega += slope * size
    return omega


def trust_region_literal(omega: Array, quantile: Ratio = 0.99) -> Array:
    """Where Ω is below its quantile over the whole model, strict: ``sorted(Ω)[min(⌊q·D⌋, D − 1)]``.

    Args:
        omega: Ω, the whole model of D entries.
        quantile: q in [0, 1].

    Returns:
        bool, same shape.
    """
    rank = min(floor_of(quantile, omega.size), omega.size - 1)
    return omega < np.sort(omega, axis=None)[rank]


def tatr_literal(
    base: Array, finetuned: Array, gradients: Array | None = None, lambda_: float = 0.3, quantile: Ratio = 0.99
) -> Array:
    """``θ0 + λ·Σ_i [Ω < threshold]·τ_i``.

    Args:
        base: θ0, a whole model.
        finetuned: θ_i, [N, ...].
        gradients: ḡ_i, [N, ...]; None: zero-shot.
        lambda_: λ.
        quantile: q.

    Returns:
        float64 [...].
    """
    base, tau = task_vectors(base, finetuned)
    trusted = trust_region_literal(sensitivity_literal(tau, gradients), quantile)
    return base + lambda_ * np.where(trusted, tau.sum(axis=0), 0.0)
