"""SCE (arXiv 2408.07990): select entries by their variance over the tasks, weigh tasks by energy, erase minorities.

==============  ==============================================================================
``shared``      λ, variance threshold
``per_model``   w_i
``integers``    tie cut of the threshold; for an energy alone: the task
==============  ==============================================================================

Selected is what is above (threshold, cut), as in :mod:`sparse_sum`.
"""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.dtypes import Array
from sta_kernels.kernels.reference.formulas.arguments import Arguments, ordered_sum, quotient
from sta_kernels.kernels.reference.formulas.sparse_sum import above_exact, elected_exact


def variance_exact(given: Arguments) -> Array:
    """Biased variance of τ over the tasks: ``RN(Σ RN(d_i·d_i)/N)``, ``d_i = RN(τ_i − RN(Σ τ/N))``, sums in order."""
    tau = given.tau
    count = np.float32(len(tau))
    away = tau - ordered_sum(tau) / count
    return ordered_sum(away * away) / count


def _selected(given: Arguments) -> Array:
    return above_exact(variance_exact(given), given.index, given.shared[1], given.integers[0])


def sce_energy_exact(given: Arguments) -> Array:
    """``RN(τ_i²)`` of one task where the entry is selected, 0 elsewhere."""
    tau = given.tau[given.integers[1]]
    return np.where(_selected(given), tau * tau, np.float32(0))


def sce_exact(given: Arguments) -> Array:
    """``δ = RN(λ·RN(Σ RN(w_i·τ_i) / Σ w_i))`` over the tasks of the majority sign, where selected; else 0.

    The sign is that of Σ τ_i in order, + where that is 0. A task whose τ_i is 0 takes part in neither.
    """
    tau = np.where(_selected(given), given.tau, np.float32(0))
    sign = elected_exact(tau, np.float32(1))
    agreeing = np.where(sign > 0, tau > 0, tau < 0)
    weights = np.where(agreeing, given.per_model[:, :1], np.float32(0))
    return given.shared[0] * quotient(ordered_sum(weights * tau), ordered_sum(weights))


FORMULAS = {"sce": sce_exact, "sce_energy": sce_energy_exact, "variance": variance_exact}
DELTAS = ("sce",)
