"""SCE (arXiv 2408.07990): select the entries that vary most, calculate weights from energy, erase minority signs."""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.literal.combine import elect_literal
from sta_kernels.kernels.reference.literal.common import Array, Ratio, by_magnitude, floor_of, rational, task_vectors

_FLOOR = 1e-6


def select_literal(tau: Array, select_topk: Ratio) -> Array:
    """Entries of the greatest variance among the tasks: ``⌊topk·(number of variances above 0)⌋``.

    Variances are biased, ``mean (τ_i − mean τ)²``. Among equal ones the lowest index is first.

    Args:
        tau: τ_i, [N, ...].
        select_topk: 1 and above selects all, also those that do not vary.

    Returns:
        bool [...].
    """
    if rational(select_topk) >= 1:
        return np.ones(tau.shape[1:], bool)
    variance = tau.var(axis=0)
    chosen = np.zeros(variance.size, bool)
    chosen[by_magnitude(variance)[: max(0, floor_of(select_topk, int(np.count_nonzero(variance))))]] = True
    return chosen.reshape(variance.shape)


def sce_literal(base: Array, finetuned: Array, select_topk: Ratio = 1.0, absolute: bool = False) -> Array:
    """``θ0 + Σ w_i·e_i·τ̂_i / max(Σ w_i·e_i, 1e-6)``, ``w_i = mean τ̂_i² / Σ_j mean τ̂_j²``.

    τ̂_i are the selected entries, e_i where they have the sign of ``Σ τ̂_i`` (a zero sum counts as +). Weights are
    uniform where the energy ``Σ mean τ̂²`` is below 1e-6 times that of the unselected τ.

    Args:
        base: θ0, one tensor.
        finetuned: θ_i, [N, ...].
        select_topk: share of the varying entries.
        absolute: uniform below 1e-6 itself, as mergekit has it: so for the small differences of a typical fine-tune.

    Returns:
        float64 [...].
    """
    base, tau = task_vectors(base, finetuned)
    selected = np.where(select_literal(tau, select_topk), tau, 0.0)
    erased = np.where(np.sign(selected) == elect_literal(selected), selected, 0.0)
    energies = (selected**2).reshape(len(tau), -1).mean(axis=1)
    least = _FLOOR if absolute else _FLOOR * (tau**2).reshape(len(tau), -1).mean(axis=1).sum()
    total = energies.sum()
    weights = energies / total if total > 0 and total >= least else np.full(len(tau), 1 / len(tau))
    divisor = np.tensordot(weights, erased != 0, axes=1)
    return base + np.tensordot(weights, erased, axes=1) / np.maximum(divisor, _FLOOR)
