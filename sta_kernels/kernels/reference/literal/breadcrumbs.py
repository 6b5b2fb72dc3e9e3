"""Model Breadcrumbs (arXiv 2312.06795): task vectors without their greatest entries and without their small ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sta_kernels.kernels.reference.literal.combine import combine_literal, elect_literal, rescale_l1_literal
from sta_kernels.kernels.reference.literal.common import (
    Array,
    Ratio,
    by_magnitude,
    floor_of,
    per_task,
    rational,
    ratios,
    task_vectors,
)


def crumbs_literal(tau: Array, density: Ratio, gamma: Ratio = 0.01) -> Array:
    """Drop the ``⌊γ·n⌋`` greatest entries, keep the next ``⌊density·n⌋``; among equal |τ| the lowest index first.

    Where fewer than ``⌊density·n⌋`` would be left below the outliers, fewer outliers are dropped. mergekit 0.1.5.

    Args:
        tau: one task's tensor of n entries.
        density: kept share; 1 and above keeps all, outliers too.
        gamma: share of outliers.

    Returns:
        Same shape, zeros for what was dropped.
    """
    if rational(density) >= 1:
        return tau.copy()
    kept = max(0, floor_of(density, tau.size))
    first = min(floor_of(gamma, tau.size), tau.size - kept)
    chosen = by_magnitude(tau)[first : first + kept]
    sparse = np.zeros(tau.size)
    sparse[chosen] = tau.ravel()[chosen]
    return sparse.reshape(tau.shape)


def crumbs_by_row_literal(tau: Array, density: Ratio, gamma: Ratio = 0.01) -> Array:
    """The same along the last axis, every row by itself, as the authors' code has it.

    Args:
        tau: one task's tensor, [..., n].
        density: kept share of a row.
        gamma: share of outliers of a row.

    Returns:
        Same shape, zeros for what was dropped.
    """
    return np.apply_along_axis(crumbs_literal, -1, tau, density, gamma)


def breadcrumbs_literal(
    base: Array,
    finetuned: Array,
    density: Ratio | Sequence[Ratio] = 1.0,
    gamma: Ratio | Sequence[Ratio] = 0.01,
    weights: Sequence[float] | None = None,
    lambda_: float = 1.0,
    normalize: bool = False,
    rescale: bool = False,
    elect: bool = False,
) -> Array:
    """``θ0 + λ·Σ w_i·τ̂_i``; with an election ``breadcrumbs_ties``.

    Args:
        base: θ0, one tensor.
        finetuned: θ_i, [N, ...].
        density: kept share, for all tasks or one per task.
        gamma: share of outliers, for all tasks or one per task.
        weights: one per task; None: all 1.
        lambda_: multiplies last.
        normalize: divide by the weights that took part.
        rescale: restore each tensor's L1 norm.
        elect: only entries of the elected sign take part.

    Returns:
        float64 [...].
    """
    base, tau = task_vectors(base, finetuned)
    shares = zip(tau, ratios(density, len(tau)), ratios(gamma, len(tau)), strict=True)
    thinned = [crumbs_literal(*share) for share in shares]
    if rescale:
        thinned = [rescale_l1_literal(sparse, dense) for sparse, dense in zip(thinned, tau, strict=True)]
    deltas = np.stack(thinned)
    signs = elect_literal(per_task(weights, deltas) * deltas) if elect else None
    return base + combine_literal(deltas, weights, normalize, lambda_, signs)
