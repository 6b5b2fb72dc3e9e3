"""What a formula is given: float32 operands of some positions, and its parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sta_kernels.kernels.reference.dtypes import Array


@dataclass(frozen=True)
class Arguments:
    """Operands and parameters of one call.

    Attributes:
        base: θ0, float32 [n]; without meaning where the formula has no base.
        models: θ_i, float32 [N, n].
        importances: float32 [N, n], or [0, n].
        index: int64 [n], of each element in its tensor.
        variant: small integers that choose among forms.
        shared: float32 [S].
        per_model: float32 [N, P].
        integers: 64-bit.
    """

    base: Array
    models: Array
    importances: Array
    index: Array
    variant: tuple[int, ...]
    shared: Array
    per_model: Array
    integers: tuple[int, ...]

    @property
    def tau(self) -> Array:
        """Task vectors ``RN(θ_i − θ0)``, float32 [N, n]."""
        return self.models - self.base


def ordered_sum(terms: Array) -> Array:
    """Sum over the models in their order, from +0, each step rounded: [N, n] to [n]."""
    total = np.zeros(terms.shape[1:], np.float32)
    for term in terms:
        total = total + term
    return total


def quotient(dividend: Array, divisor: Array | np.float32) -> Array:
    """Rounded quotient; a divisor of 0 counts as 1."""
    return dividend / np.where(divisor == 0, np.float32(1), divisor)
