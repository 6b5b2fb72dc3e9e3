"""Products of two operands, whose sums are the dots and squared norms of models or task vectors.

``variant``: 0: of the weights themselves; 1: of the task vectors.
"""

from __future__ import annotations

from sta_kernels.kernels.reference.dtypes import Array
from sta_kernels.kernels.reference.formulas.arguments import Arguments


def product_exact(given: Arguments) -> Array:
    """``RN(θ_i·θ_j)``, or ``RN(τ_i·τ_j)``, of the first and the last model, which may be one and the same."""
    vectors = given.tau if given.variant[0] else given.models
    return vectors[0] * vectors[-1]


FORMULAS = {"product": product_exact}
DELTAS = ()
