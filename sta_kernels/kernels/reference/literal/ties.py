"""TIES (arXiv 2306.01708): trim to the greatest entries, elect a sign at each position, merge those that agree.

Two scopes. *Tensor* is mergekit's: an exact number of entries per tensor, a zero sum counts as +, weights. *Model* is
that of the paper's code: one threshold over the whole model, at which every tie stays, and a zero sum takes the sign
that most positions have.
"""

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


def trim_tensor_literal(tau: Array, density: Ratio) -> Array:
    """Keep the ``max(1, ⌊density·n⌋)`` greatest entries of a tensor, among equal |τ| the lowest index first.

    Args:
        tau: one task's tensor.
        density: 1 and above keeps all, 0 and below none.

    Returns:
        Same shape, zeros for what was trimmed.
    """
    if rational(density) >= 1:
        return tau.copy()
    trimmed = np.zeros(tau.size)
    if rational(density) > 0:
        kept = by_magnitude(tau)[: max(1, floor_of(density, tau.size))]
        trimmed[kept] = tau.ravel()[kept]
    return trimmed.reshape(tau.shape)


def trim_model_literal(tau: Array, density: Ratio) -> Array:
    """Keep ``|τ| ≥`` the t-th smallest, ``t = d − ⌊d·K⌋``: ``d·K + 1`` entries where none tie, all for t = 0.

    Args:
        tau: one task's whole model of d entries.
        density: K in (0, 1].

    Returns:
        Same shape, zeros for what was trimmed.
    """
    t = tau.size - floor_of(density, tau.size)
    if t == 0:
        return tau.copy()
    magnitude = np.abs(tau)
    return np.where(magnitude >= np.sort(magnitude, axis=None)[t - 1], tau, 0.0)


def ties_tensor_literal(
    base: Array,
    finetuned: Array,
    density: Ratio | Sequence[Ratio] = 1.0,
    weights: Sequence[float] | None = None,
    lambda_: float = 1.0,
    normalize: bool = True,
    rescale: bool = False,
) -> Array:
    """TIES as mergekit has it: ``θ0 + λ·Σ M_i·w_i·τ̂_i / Σ M_i·w_i``, M_i where ``w_i·τ̂_i`` has the elected sign.

    Args:
        base: θ0, one tensor.
        finetuned: θ_i, [N, ...].
        density: kept share of each tensor, for all tasks or one per task.
        weights: one per task; None: all 1. They weigh the election too.
        lambda_: multiplies last.
        normalize: divide by the weights that took part; else sum.
        rescale: give each trimmed tensor its L1 norm back.

    Returns:
        float64 [...].
    """
    base, tau = task_vectors(base, finetuned)
    thinned = [trim_tensor_literal(t, d) for t, d in zip(tau, ratios(density, len(tau)), strict=True)]
    if rescale:
        thinned = [rescale_l1_literal(sparse, dense) for sparse, dense in zip(thinned, tau, strict=True)]
    deltas = np.stack(thinned)
    signs = elect_literal(per_task(weights, deltas) * deltas)
    return base + combine_literal(deltas, weights, normalize, lambda_, signs)


def elect_model_literal(deltas: Array, m0: str = "none") -> Array:
    """Sign of the sum at each position; zero sums take the sign of ``Σ sgn(Σ_i τ̂_i)`` over the whole model.

    Args:
        deltas: τ̂_i, [N, ...], weighted if they have weights.
        m0: where that majority is 0 itself: ``none``: no sign; ``negative``: −, as the official code falls through.

    Returns:
        1, −1 or 0, [...].

    Raises:
        ValueError: an unknown rule for a majority of 0.
    """
    if m0 not in ("none", "negative"):
        raise ValueError(f"m0 {m0!r}: expected 'none' or 'negative'")
    signs = np.sign(deltas.sum(axis=0))
    majority = np.sign(signs.sum())
    if majority == 0 and m0 == "negative":
        majority = -1.0
    return np.where(signs == 0, majority, signs)


def ties_model_literal(
    base: Array,
    finetuned: Array,
    density: Ratio | Sequence[Ratio] = 1.0,
    weights: Sequence[float] | None = None,
    lambda_: float = 1.0,
    normalize: bool = True,
    m0: str = "none",
) -> Array:
    """TIES as the paper's code has it, for a whole model: ``dis-mean``, or ``dis-sum`` where not normalised.

    The mean divides by the number of entries that take part; weights other than 1 (which the paper does not have) by
    their weights, as :func:`ties_tensor_literal`.

    Args:
        base: θ0, a whole model.
        finetuned: θ_i, [N, ...].
        density: K, the kept share of each model, for all tasks or one per task.
        weights: one per task; None: all 1.
        lambda_: multiplies last.
        normalize: mean; else sum.
        m0: see :func:`elect_model_literal`.

    Returns:
        float64 [...].
    """
    base, tau = task_vectors(base, finetuned)
    deltas = np.stack([trim_model_literal(t, d) for t, d in zip(tau, ratios(density, len(tau)), strict=True)])
    signs = elect_model_literal(per_task(weights, deltas) * deltas, m0)
    return base + combine_literal(deltas, weights, normalize, lambda_, signs)
