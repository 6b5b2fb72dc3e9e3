"""The formulas in NumPy: float32, one correctly rounded operation at a time, in the order that every kernel keeps.

``FORMULAS[name]`` gives the value at every position; ``DELTAS`` names those that are a merged task vector δ, which a
rule adds to the base: ``RN(θ0 + δ)``, and the base's own value where δ is 0, so that −0 and float64 survive.
"""

from __future__ import annotations

from collections.abc import Callable

from sta_kernels.kernels.reference.dtypes import Array
from sta_kernels.kernels.reference.formulas import (
    agreement,
    arcee_fusion,
    fisher,
    nearswap,
    pcb,
    product,
    scaled_sum,
    sce,
    sparse_sum,
    trust_region,
)
from sta_kernels.kernels.reference.formulas.arguments import Arguments

__all__ = ["DELTAS", "FORMULAS", "Arguments"]

_FAMILIES = (
    agreement, arcee_fusion, fisher, nearswap, pcb, product, scaled_sum, sce, sparse_sum, trust_region,
)  # fmt: skip

FORMULAS: dict[str, Callable[[Arguments], Array]] = {
    name: value for family in _FAMILIES for name, value in family.FORMULAS.items()
}
DELTAS = frozenset(name for family in _FAMILIES for name in family.DELTAS)
