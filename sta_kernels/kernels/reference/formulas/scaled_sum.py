"""Sums whose factors differ from position to position: those of rows or columns, spread over their entries.

==============  ==============================================================================
``variant``     0: of the weights themselves; 1: of the task vectors
``importances`` f_i, the factor of each model
==============  ==============================================================================
"""

from __future__ import annotations

from sta_kernels.kernels.reference.dtypes import Array
from sta_kernels.kernels.reference.formulas.arguments import Arguments, ordered_sum


def scaled_sum_exact(given: Arguments) -> Array:
    """``θ = Σ RN(f_i·θ_i)``, or ``δ = Σ RN(f_i·τ_i)``, in order."""
    return ordered_sum(given.importances * (given.tau if given.variant[0] else given.models))


FORMULAS = {"scaled_sum": scaled_sum_exact}
DELTAS = ("scaled_sum",)
