"""How sparse task vectors become one: a weighted sum, or a sum of those that agree with an elected sign."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sta_kernels.kernels.reference.literal.common import Array, per_task

_NO_NORM = 1e-7
"""Below this L1 norm mergekit leaves a tensor as it is."""

_NO_WEIGHT = 1e-8
"""Below this magnitude the sum of all weights counts as 1, in mergekit; at a position, only 0 itself does."""


def rescale_l1_literal(sparse: Array, dense: Array) -> Array:
    """Restore the L1 norm that a tensor had before it was thinned, ``τ̂·‖τ‖₁/‖τ̂‖₁`` (mergekit's ``rescale``).

    Args:
        sparse: τ̂, one task's tensor.
        dense: τ, same shape.

    Returns:
        Same shape; τ̂ itself where either norm is below 1e-7.
    """
    before, after = np.abs(dense).sum(), np.abs(sparse).sum()
    return sparse if before < _NO_NORM or after < _NO_NORM else sparse * (before / after)


def elect_literal(deltas: Array) -> Array:
    """Sign of the sum of the weighted deltas at each position; a zero sum counts as + (mergekit).

    Args:
        deltas: w_i·τ̂_i, [N, ...].

    Returns:
        1 or −1, [...].
    """
    return np.where(deltas.sum(axis=0) >= 0, 1.0, -1.0)


def combine_literal(
    deltas: Array,
    weights: Sequence[float] | None = None,
    normalize: bool = False,
    lambda_: float = 1.0,
    signs: Array | None = None,
) -> Array:
    """``λ·Σ_i M_i·w_i·τ̂_i``, divided by ``Σ_i M_i·w_i`` when normalised.

    Args:
        deltas: τ̂_i, [N, ...].
        weights: one per task; None: all 1.
        normalize: divide by the weights that took part at the position; a sum of 0 counts as 1.
        lambda_: multiplies last.
        signs: an elected sign per position, [...]: only entries ``w_i·τ̂_i`` of that sign take part, and zeros in
            neither. None: every entry takes part.

    Returns:
        The merged task vector, [...].
    """
    weight = per_task(weights, deltas)
    weighted = weight * deltas
    takes_part = np.ones(deltas.shape, bool) if signs is None else (np.sign(weighted) == signs) & (weighted != 0)
    total = np.where(takes_part, weighted, 0.0).sum(axis=0)
    if normalize:
        divisor = np.where(takes_part, weight, 0.0).sum(axis=0)
        none = divisor == 0 if signs is not None else np.abs(divisor) < _NO_WEIGHT
        total = total / np.where(none, 1.0, divisor)
    return lambda_ * total
