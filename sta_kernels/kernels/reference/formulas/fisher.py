"""Fisher-weighted averaging (arXiv 2111.09832): each parameter by how sure every model is of it.

==============  ==============================================================================
``per_model``   c_i, ε_i
``importances`` F_i, the diagonal of the Fisher information
==============  ==============================================================================
"""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.dtypes import Array
from sta_kernels.kernels.reference.formulas.arguments import Arguments, ordered_sum, quotient


def fisher_exact(given: Arguments) -> Array:
    """``θ = RN(Σ RN(v_i·θ_i) / Σ v_i)`` with ``v_i = RN(c_i·RN(F_i + ε_i))``; with ``v_i = c_i`` where all v_i are 0.

    Both sums run in order; a divisor of 0 counts as 1.
    """
    weights = given.per_model[:, :1] * (given.importances + given.per_model[:, 1:2])
    weights = np.where((weights != 0).any(axis=0), weights, given.per_model[:, :1])
    return quotient(ordered_sum(weights * given.models), ordered_sum(weights))


FORMULAS = {"fisher": fisher_exact}
DELTAS = ()
