"""DARE (arXiv 2311.03099): drop entries at random, rescale the survivors, merge. The masks are given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sta_kernels.kernels.reference.literal.combine import combine_literal, elect_literal, rescale_l1_literal
from sta_kernels.kernels.reference.literal.common import Array, Ratio, per_task, rational, ratios, task_vectors
from sta_kernels.kernels.reference.literal.ties import ties_model_literal


def drop_literal(
    tau: Array, kept: Array, density: Ratio | Sequence[Ratio] | None = None, rescale: str = "none"
) -> Array:
    """Task vectors of which the dropped entries are 0 and the survivors rescaled.

    Args:
        tau: τ_i, [N, ...]; one tensor each, where an L1 norm is restored.
        kept: bool [N, ...], True where an entry survives.
        density: the keep rate ``1 − p``, for all tasks or one per task; only ``keep_rate`` asks for it.
        rescale: ``none``; ``keep_rate``: divide by the keep rate (the paper), unless that is 0; ``l1``: restore each
            tensor's L1 norm (mergekit).

    Returns:
        float64 [N, ...].

    Raises:
        ValueError: an unknown rescaling, or ``keep_rate`` without one.
    """
    tau = np.asarray(tau, np.float64)
    thinned = np.where(kept, tau, 0.0)
    if rescale == "l1":
        return np.stack([rescale_l1_literal(sparse, dense) for sparse, dense in zip(thinned, tau, strict=True)])
    if rescale == "keep_rate":
        if density is None:
            raise ValueError("rescale 'keep_rate' needs the density")
        rates = [float(rational(rate)) or 1.0 for rate in ratios(density, len(tau))]
        return thinned / per_task(rates, tau)
    if rescale != "none":
        raise ValueError(f"rescale {rescale!r}: expected 'none', 'keep_rate' or 'l1'")
    return thinned


def dare_linear_literal(
    base: Array,
    finetuned: Array,
    kept: Array,
    density: Ratio | Sequence[Ratio] | None = None,
    weights: Sequence[float] | None = None,
    lambda_: float = 1.0,
    normalize: bool = False,
    rescale: str = "l1",
) -> Array:
    """``θ0 + λ·Σ w_i·τ̂_i``: DARE with task arithmetic, or with averaging where normalised.

    Args:
        base: θ0, [...].
        finetuned: θ_i, [N, ...].
        kept: bool [N, ...], True where an entry survives.
        density: the keep rate, for all tasks or one per task.
        weights: one per task; None: all 1.
        lambda_: multiplies last.
        normalize: divide by ``Σ w_i``.
        rescale: see :func:`drop_literal`.

    Returns:
        float64 [...].
    """
    base, tau = task_vectors(base, finetuned)
    return base + combine_literal(drop_literal(tau, kept, density, rescale), weights, normalize, lambda_)


def dare_ties_literal(
    base: Array,
    finetuned: Array,
    kept: Array,
    density: Ratio | Sequence[Ratio] | None = None,
    weights: Sequence[float] | None = None,
    lambda_: float = 1.0,
    normalize: bool = False,
    rescale: str = "l1",
) -> Array:
    """Random dropping in place of TIES' trim, then its election, as mergekit's ``dare_ties``.

    Args:
        base: θ0, one tensor.
        finetuned: θ_i, [N, ...].
        kept: bool [N, ...], True where an entry survives.
        density: the keep rate, for all tasks or one per task.
        weights: one per task; None: all 1.
        lambda_: multiplies last.
        normalize: divide by the weights that took part.
        rescale: see :func:`drop_literal`.

    Returns:
        float64 [...].
    """
    base, tau = task_vectors(base, finetuned)
    deltas = drop_literal(tau, kept, density, rescale)
    signs = elect_literal(per_task(weights, deltas) * deltas)
    return base + combine_literal(deltas, weights, normalize, lambda_, signs)


def dare_before_ties_literal(
    base: Array,
    finetuned: Array,
    kept: Array,
    density: Ratio | Sequence[Ratio],
    keep: Ratio,
    lambda_: float = 1.0,
    rescale: str = "keep_rate",
) -> Array:
    """DARE, then TIES with its own trim of the rescaled values, as the paper combines them.

    Args:
        base: θ0, a whole model.
        finetuned: θ_i, [N, ...].
        kept: bool [N, ...], True where an entry survives the dropping.
        density: the keep rate, for all tasks or one per task.
        keep: K of TIES.
        lambda_: multiplies last.
        rescale: see :func:`drop_literal`.

    Returns:
        float64 [...].
    """
    base, tau = task_vectors(base, finetuned)
    return base + ties_model_literal(
        np.zeros_like(base), drop_literal(tau, kept, density, rescale), keep, lambda_=lambda_
    )
