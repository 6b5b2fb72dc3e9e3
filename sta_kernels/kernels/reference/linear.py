"""Methods without a mask: weight averaging, task arithmetic, negation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from sta_kernels.kernels.reference.dtypes import Array


def average_literal(models: Array, weights: Sequence[float] | None = None) -> Array:
    """Weighted mean of the models, ``Σ w_i·θ_i / Σ w_i``; the base is unused.

    Args:
        models: θ_i, [N, …].
        weights: one per model, not summing to 0; None: all 1.

    Returns:
        float64 […].
    """
    return np.average(np.asarray(models, np.float64), axis=0, weights=weights)


def task_arithmetic_literal(
    base: Array, finetuned: Array, lambda_: float, weights: Sequence[float] | None = None
) -> Array:
    """Scaled sum of task vectors, ``θ0 + λ·Σ w_i·τ_i`` (arXiv 2212.04089).

    Args:
        base: θ0, […].
        finetuned: θ_i, [N, …].
        lambda_: scale of the sum.
        weights: one per model; None: all 1.

    Returns:
        float64 […].
    """
    base = np.asarray(base, np.float64)
    tau = np.asarray(finetuned, np.float64) - base
    coefficients = np.ones(len(tau)) if weights is None else np.asarray(weights, np.float64)
    return base + lambda_ * np.tensordot(coefficients, tau, axes=1)


def negation_literal(base: Array, finetuned: Array, gamma: float) -> Array:
    """One task's vector subtracted, ``θ0 − γ·τ`` (arXiv 2212.04089).

    Args:
        base: θ0, any shape.
        finetuned: θ_1, same shape.
        gamma: γ.

    Returns:
        float64, same shape.
    """
    base = np.asarray(base, np.float64)
    return base - gamma * (np.asarray(finetuned, np.float64) - base)


def weighted_sum_exact(
    base: Array | None, models: Iterable[Array], weights: Sequence[float], divisor: float = 1.0, lambda_: float = 1.0
) -> Array:
    """``[θ0 +] λ·((Σ w_i·(θ_i [− θ0]))/divisor)`` in model order, each step rounded.

    From ``acc = +0``: ``acc = RN(acc + RN(w_i·θ_i))``, or ``RN(w_i·RN(θ_i − θ0))`` with a base; then
    ``RN(acc/divisor)``, ``RN(λ·acc)``, and with a base ``RN(θ0 + acc)``. Averaging is λ = 1 and the sum of the weights
    as divisor, without a base; task arithmetic a base and divisor 1.

    Args:
        base: θ0, float32 [n], or None.
        models: θ_i, float32 [n] each, at least one.
        weights: one per model, rounded to float32.
        divisor: rounded to float32; one that is 0 then counts as 1.
        lambda_: rounded to float32.

    Returns:
        float32 [n].
    """
    total: Array | np.float32 = np.float32(0)
    for model, weight in zip(models, weights, strict=True):
        total = total + np.float32(weight) * (model if base is None else model - base)
    total = total / (np.float32(divisor) or np.float32(1))
    total = np.float32(lambda_) * total
    return np.asarray(total if base is None else base + total)
