"""TALL masks and Consensus merging (arXiv 2405.07813)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sta_kernels.kernels.reference.literal.common import Array, per_task, task_vectors


def tall_masks_literal(
    base: Array, finetuned: Array, mask_lambda: float | Sequence[float] = 0.4, merged_tau: Array | None = None
) -> Array:
    """Where a task's own vector outweighs what the others add, ``m_t = [|τ_t| > λ_t·|τ_M − τ_t|]``, strict.

    Args:
        base: θ0, [...].
        finetuned: θ_i, [N, ...].
        mask_lambda: λ_t, for all tasks or one per task.
        merged_tau: τ_M, [...]; None: ``Σ τ_i``.

    Returns:
        bool [N, ...].
    """
    _, tau = task_vectors(base, finetuned)
    merged = tau.sum(axis=0) if merged_tau is None else np.asarray(merged_tau, np.float64)
    return np.abs(tau) > per_task(mask_lambda, tau) * np.abs(merged - tau)


def decode_literal(base: Array, mask: Array, merged_tau: Array, coefficient: float = 1.0) -> Array:
    """One task restored from what all share, ``θ0 + m_t ⊙ τ_M``.

    Args:
        base: θ0, [...].
        mask: m_t, bool [...].
        merged_tau: τ_M, [...].
        coefficient: of the sum.

    Returns:
        float64 [...].
    """
    return np.asarray(base, np.float64) + coefficient * np.where(mask, np.asarray(merged_tau, np.float64), 0.0)


def consensus_literal(
    base: Array,
    finetuned: Array,
    k: int = 2,
    lambda_: float = 1.0,
    mask_lambda: float | Sequence[float] = 0.4,
    merged_tau: Array | None = None,
) -> Array:
    """What at least k tasks agree on, ``θ0 + α·τ_M ⊙ [Σ_t m_t ≥ k]``.

    Args:
        base: θ0, [...].
        finetuned: θ_i, [N, ...].
        k: agreement count.
        lambda_: α.
        mask_lambda: λ_t, for all tasks or one per task.
        merged_tau: τ_M, [...]; None: ``Σ τ_i``.

    Returns:
        float64 [...].
    """
    base, tau = task_vectors(base, finetuned)
    merged = tau.sum(axis=0) if merged_tau is None else np.asarray(merged_tau, np.float64)
    agreed = tall_masks_literal(base, finetuned, mask_lambda, merged).sum(axis=0) >= k
    return decode_literal(base, agreed, merged, lambda_)
