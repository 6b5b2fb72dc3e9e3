"""Task arithmetic in the trust region (arXiv 2501.15065): entries that would hurt other tasks are left out.

==============  ==============================================================================
``variant``     0: sensitivities |ḡ_i| are stored; 1: zero-shot, |τ_i| stands for |ḡ_i|
``shared``      λ, threshold
``per_model``   w_i
``importances`` |ḡ_i|, where stored
==============  ==============================================================================
"""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.dtypes import Array
from sta_kernels.kernels.reference.formulas.arguments import Arguments, ordered_sum


def conflict_exact(given: Arguments) -> Array:
    """``Ω = Σ_i Σ_{j≠i} RN(|ḡ_i|·|τ_j|)``, i in order and j in order for each: a sum of what is never negative."""
    size = np.abs(given.tau)
    sensitivity = size if given.variant[0] else given.importances
    total = np.zeros(given.index.shape, np.float32)
    for i in range(len(size)):
        for j in range(len(size)):
            if i != j:
                total = total + sensitivity[i] * size[j]
    return total


def trust_region_exact(given: Arguments) -> Array:
    """``δ = RN(λ·Σ RN(w_i·τ_i))`` where Ω is below the threshold, else 0."""
    lambda_, threshold = given.shared
    total = lambda_ * ordered_sum(given.per_model[:, :1] * given.tau)
    return np.where(conflict_exact(given) < threshold, total, np.float32(0))


FORMULAS = {"trust_region": trust_region_exact, "conflict": conflict_exact}
DELTAS = ("trust_region",)
