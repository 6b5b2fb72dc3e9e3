"""DELLA (arXiv 2406.11617): drop at random, small entries of a row more often. The draws are given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sta_kernels.kernels.reference.literal.combine import combine_literal, elect_literal, rescale_l1_literal
from sta_kernels.kernels.reference.literal.common import (
    Array,
    Ratio,
    by_magnitude,
    per_task,
    rational,
    ratios,
    task_vectors,
)


def keep_probabilities_literal(tau: Array, density: Ratio, epsilon: Ratio = 0.15) -> Array:
    """``q = (density − ε) + 2ε·(r − 1)/(n − 1)``, r the rank of |τ| in its row of n entries, the smallest 1.

    A row is what stands at one index of the first axis; a vector is one row. Among equal |τ| the lowest index counts
    as the greatest. In a row of one entry q is the density, the middle of its range.

    Args:
        tau: one task's tensor.
        density: mean of q; 1 and above keeps all, 0 and below none.
        epsilon: ε; half the official window.

    Returns:
        float64, same shape.

    Raises:
        ValueError: q would leave (0, 1).
    """
    mean, spread = rational(density), rational(epsilon)
    if mean >= 1 or mean <= 0:
        return np.full(tau.shape, float(mean >= 1))
    if not (mean - spread > 0 and mean + spread < 1):
        raise ValueError(f"density {density} ± epsilon {epsilon}: expected within 0 and 1")
    rows = tau.reshape(len(tau), -1) if tau.ndim > 1 else tau.reshape(1, -1)
    n = rows.shape[1]
    if n == 1:
        return np.full(tau.shape, float(mean))
    by_rank = [float(mean - spread + 2 * spread * r / (n - 1)) for r in range(n)]
    probabilities = np.empty(rows.shape)
    for row, out in zip(rows, probabilities, strict=True):
        out[by_magnitude(row)[::-1]] = by_rank
    return probabilities.reshape(tau.shape)


def della_literal(
    base: Array,
    finetuned: Array,
    draws: Array,
    density: Ratio | Sequence[Ratio] = 1.0,
    epsilon: Ratio | Sequence[Ratio] = 0.15,
    weights: Sequence[float] | None = None,
    lambda_: float = 1.0,
    normalize: bool = True,
    rescale: str = "l1",
    elect: bool = True,
) -> Array:
    """``θ0 + λ·Σ M_i·w_i·τ̂_i / Σ M_i·w_i`` of what survives; without an election ``della_linear``.

    Args:
        base: θ0, one tensor.
        finetuned: θ_i, [N, ...].
        draws: uniform in [0, 1), [N, ...]; an entry survives where its draw is below q.
        density: mean keep probability, for all tasks or one per task.
        epsilon: ε, for all tasks or one per task.
        weights: one per task; None: all 1.
        lambda_: multiplies last.
        normalize: divide by the weights that took part; mergekit's default for ``della`` only.
        rescale: ``none``; ``probability``: divide by q (the paper); ``l1``: restore each tensor's L1 norm (mergekit).
        elect: only entries of the elected sign take part.

    Returns:
        float64 [...].

    Raises:
        ValueError: an unknown rescaling, or q would leave (0, 1).
    """
    if rescale not in ("none", "probability", "l1"):
        raise ValueError(f"rescale {rescale!r}: expected 'none', 'probability' or 'l1'")
    base, tau = task_vectors(base, finetuned)
    shares = zip(tau, ratios(density, len(tau)), ratios(epsilon, len(tau)), strict=True)
    probabilities = np.stack([keep_probabilities_literal(*share) for share in shares])
    survives = np.asarray(draws) < probabilities
    deltas = np.where(survives, tau, 0.0)
    if rescale == "probability":
        deltas = deltas / np.where(survives, probabilities, 1.0)
    if rescale == "l1":
        deltas = np.stack([rescale_l1_literal(sparse, dense) for sparse, dense in zip(deltas, tau, strict=True)])
    signs = elect_literal(per_task(weights, deltas) * deltas) if elect else None
    return base + combine_literal(deltas, weights, normalize, lambda_, signs)
