"""RegMean (arXiv 2212.09849): the linear layer that answers every task's inputs most nearly as its own did."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sta_kernels.kernels.reference.literal.common import Array, per_task


def gram_literal(inputs: Array) -> Array:
    """Gram matrix of a linear layer's inputs, ``G = XᵀX/rows``.

    Args:
        inputs: X, [rows, in].

    Returns:
        float64 [in, in].
    """
    inputs = np.asarray(inputs, np.float64)
    return inputs.T @ inputs / len(inputs)


def off_diagonal_literal(grams: Array, ratio: float) -> Array:
    """Gram matrices with all but their diagonals scaled.

    Args:
        grams: G_i, [..., in, in].
        ratio: 1 leaves them, 0 keeps the diagonals.

    Returns:
        float64 [..., in, in].
    """
    grams = np.asarray(grams, np.float64)
    return np.where(np.eye(grams.shape[-1], dtype=bool), grams, ratio * grams)


def regmean_literal(
    finetuned: Array,
    grams: Array,
    off_diagonal: float = 1.0,
    weights: Sequence[float] | None = None,
    jitter: float = 0.0,
) -> Array:
    """``Wᵀ = (Σ w_i·G_i)⁻¹·Σ w_i·G_i·W_iᵀ``.

    A jitter makes a singular sum regular. It is added to every G_i on both sides, so that inputs which no task uses
    get the average of the tasks' weights rather than 0.

    Args:
        finetuned: W_i, [N, out, in].
        grams: G_i, [N, in, in].
        off_diagonal: factor of the off-diagonal entries.
        weights: one per task; None: all 1.
        jitter: added to the diagonal of each G_i, as a share of the mean diagonal entry of them all.

    Returns:
        float64 [out, in].

    Raises:
        numpy.linalg.LinAlgError: the sum is singular.
    """
    grams = off_diagonal_literal(grams, off_diagonal)
    diagonal = jitter * np.trace(grams, axis1=1, axis2=2).mean() / grams.shape[-1]
    grams = per_task(weights, grams) * (grams + diagonal * np.eye(grams.shape[-1]))
    answers = grams @ np.asarray(finetuned, np.float64).transpose(0, 2, 1)
    return np.linalg.solve(grams.sum(axis=0), answers.sum(axis=0)).T
