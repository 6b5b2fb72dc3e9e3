"""STA fusion: normalise per tensor and task (eq. 13), select among the tasks (eq. 15, 16), add (eq. 17)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sta_kernels.kernels.reference.dtypes import Array
from sta_kernels.kernels.reference.quantile import quantile_literal


def normalise_literal(importance: Array) -> Array:
    """Min-max normalisation of one task's tensor, ``(I − mn)/(mx − mn)`` (eq. 13); 0 where it is constant.

    Args:
        importance: any shape, at least one element.

    Returns:
        float64, same shape, in [0, 1].
    """
    importance = np.asarray(importance, np.float64)
    low, high = importance.min(), importance.max()
    if low == high:
        return np.zeros_like(importance)
    return (importance - low) / (high - low)


def quantile_mask_literal(normalised: Array, p: float | str) -> Array:
    """Selection by the interpolated quantile of the tasks at each position, ``M_i = [Ĩ_i > T]`` (eq. 15, 16).

    Args:
        normalised: [N, …], no NaN.
        p: quantile in [0, 1].

    Returns:
        bool [N, …].
    """
    return np.asarray(normalised, np.float64) > quantile_literal(normalised, p)


def rank_mask_literal(normalised: Array, k: int, ties: str = "drop") -> Array:
    """Selection of the tasks ranked above the k-th smallest at each position, by counting.

    A NaN ranks as +∞ and is never selected.

    Args:
        normalised: [N, …].
        k: 0..N.
        ties: ``drop``: at least k tasks are smaller; ``all``: fewer than N − k are greater, so that every task tied
            with the last kept one stays; ``first``: exactly N − k stay, among equals the first tasks.

    Returns:
        bool [N, …].

    Raises:
        ValueError: an unknown rule for ties.
    """
    values = np.asarray(normalised, np.float64)
    ranked = np.where(np.isnan(values), np.inf, values)
    keep = len(ranked) - k
    mask = ~np.isnan(values)
    for i, value in enumerate(ranked):
        greater = (ranked > value).sum(axis=0)
        if ties == "drop":
            mask[i] &= (ranked < value).sum(axis=0) >= k
        elif ties == "all":
            mask[i] &= greater < keep
        elif ties == "first":
            mask[i] &= greater + (ranked[:i] == value).sum(axis=0) < keep
        else:
            raise ValueError(f"ties {ties!r}: expected 'drop', 'all' or 'first'")
    return mask


def merge_literal(
    base: Array, finetuned: Array, mask: Array, weights: Sequence[float] | None = None, lambda_: float = 1.0
) -> Array:
    """Masked sum of task vectors, ``θ = θ0 + λ·Σ_i w_i·M_i·τ_i`` (eq. 17, where λ = w_i = 1).

    Args:
        base: θ0, […].
        finetuned: θ_i, [N, …].
        mask: bool [N, …].
        weights: one per task; None: all 1.
        lambda_: of the sum.

    Returns:
        float64 […].
    """
    base = np.asarray(base, np.float64)
    tau = np.asarray(finetuned, np.float64) - base
    coefficients = np.ones(len(tau)) if weights is None else np.asarray(weights, np.float64)
    return base + lambda_ * np.tensordot(coefficients, np.where(mask, tau, 0.0), axes=1)


def normalise_exact(importance: Array, shift: Array, divisor: Array) -> Array:
    """Affine normalisation (eq. 13), ``RN(RN(I − shift)/divisor)``; ``RN(I − shift)·0`` where the divisor is 0.

    The product is 0 where the difference is finite and NaN where it is not.

    Args:
        importance: float32 [N, n].
        shift: float32 [N].
        divisor: float32 [N].

    Returns:
        float32 [N, n].
    """
    with np.errstate(all="ignore"):
        difference = importance - shift[:, None]
        quotient = difference / divisor[:, None]
        return np.where(divisor[:, None] != 0, quotient, difference * np.float32(0))


def mask_exact(normalised: Array, k: int, ties: str = "drop") -> Array:
    """Selection at each position against the sorted values ``s_1 ≤ … ≤ s_N`` of its tasks; −0 equals +0.

    A NaN is sorted as +∞ and never selected.

    Args:
        normalised: float32 [N, n].
        k: 0..N.
        ties: ``drop``: above ``s_k`` (all for k = 0); ``all``: at least ``s_{k+1}`` (none for k = N); ``first``: the
            N − k greatest, among equals the first tasks.

    Returns:
        bool [N, n].

    Raises:
        ValueError: an unknown rule for ties, or k outside 0..N.
    """
    n_tasks = len(normalised)
    if not 0 <= k <= n_tasks:
        raise ValueError(f"k = {k}: expected 0 to {n_tasks}, the number of tasks")
    is_number = ~np.isnan(normalised)
    ranked = np.where(is_number, normalised, np.float32(np.inf))
    chosen: Array | bool
    if ties == "drop":
        chosen = ranked > np.sort(ranked, axis=0)[k - 1] if k else True
    elif ties == "all":
        chosen = ranked >= np.sort(ranked, axis=0)[k] if k < n_tasks else False
    elif ties == "first":
        greatest = np.argsort(-ranked, axis=0, kind="stable")[: n_tasks - k]
        chosen = np.zeros_like(is_number)
        np.put_along_axis(chosen, greatest, True, axis=0)
    else:
        raise ValueError(f"ties {ties!r}: expected 'drop', 'all' or 'first'")
    return is_number & chosen


def merge_exact(
    base: Array, finetuned: Array, mask: Array, weights: Sequence[float] | None = None, lambda_: float = 1.0
) -> Array:
    """Masked sum of task vectors in task order (eq. 17), each step rounded.

    From ``acc = +0``: ``acc = RN(acc + RN(w_i·RN(θ_i − θ0)))`` for each selected i; then ``RN(θ0 + RN(λ·acc))``.
    Where nothing is selected, θ0 itself: −0 stays −0.

    Args:
        base: θ0, float32 [n].
        finetuned: θ_i, float32 [N, n].
        mask: bool [N, n].
        weights: one per task, rounded to float32; None: all 1.
        lambda_: rounded to float32.

    Returns:
        float32 [n].
    """
    total = np.zeros_like(base)
    for i, chosen in enumerate(mask):
        tau = finetuned[i] - base
        term = tau if weights is None else np.float32(weights[i]) * tau
        total = np.where(chosen, total + term, total)
    merged = base + np.float32(lambda_) * total
    return np.where(mask.any(axis=0), merged, base)
