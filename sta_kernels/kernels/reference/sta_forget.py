"""STA forgetting: subtract a task's vector where its own importance exceeds a quantile (eq. 18–20)."""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.dtypes import Array
from sta_kernels.kernels.reference.quantile import quantile_literal


def threshold_literal(importance: Array, p: float | str) -> float:
    """p-quantile of one task's importance over a whole tensor (eq. 18).

    Eq. 13 is monotone, so the importance need not be normalised first.

    Args:
        importance: any shape, at least one element, no NaN.
        p: quantile in [0, 1].

    Returns:
        T, interpolated.
    """
    return float(quantile_literal(np.asarray(importance).reshape(-1), p))


def forget_mask_literal(importance: Array, p: float | str) -> Array:
    """Entries that matter to the task, ``M = [I > T]``, strict (eq. 19).

    Args:
        importance: any shape.
        p: quantile in [0, 1].

    Returns:
        bool, same shape.
    """
    return np.asarray(importance, np.float64) > threshold_literal(importance, p)


def forget_literal(
    target: Array, base: Array, finetuned: Array, mask: Array, weight: float = 1.0, lambda_: float = 1.0
) -> Array:
    """Negation of the selected entries, ``Θ = Θ_k − λ·w·M·τ`` (eq. 20, where λ = w = 1).

    Args:
        target: Θ_k, the model that forgets, any shape; the base itself, or a merge.
        base: θ0, same shape.
        finetuned: θ_i, same shape.
        mask: bool, same shape.
        weight: of the task.
        lambda_: of the whole.

    Returns:
        float64, same shape.
    """
    tau = np.asarray(finetuned, np.float64) - np.asarray(base, np.float64)
    return np.asarray(target, np.float64) - lambda_ * weight * np.where(mask, tau, 0.0)


def forget_mask_exact(importance: Array, threshold: float) -> Array:
    """``M = [I > s_k]``; a NaN on either side selects nothing.

    Args:
        importance: float32, any shape.
        threshold: s_k, the exact k-th smallest importance of the tensor, a float32 value.

    Returns:
        bool, same shape.
    """
    return importance > np.float32(threshold)


def forget_exact(
    target: Array, base: Array, finetuned: Array, mask: Array, weight: float = 1.0, lambda_: float = 1.0
) -> Array:
    """``RN(Θ_k − RN(λ·RN(w·RN(θ_i − θ0))))`` where selected, Θ_k itself elsewhere (eq. 20).

    Args:
        target: float32, any shape.
        base: float32, same shape.
        finetuned: float32, same shape.
        mask: bool, same shape.
        weight: rounded to float32.
        lambda_: rounded to float32.

    Returns:
        float32, same shape.
    """
    delta = np.float32(lambda_) * (np.float32(weight) * (finetuned - base))
    return np.where(mask, target - delta, target)
