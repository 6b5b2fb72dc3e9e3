"""The formulas as functions that Triton compiles into one kernel (:mod:`..evaluate`): same bits as the reference.

A formula is a device function. Its arguments: the base; tuples of models and of importances; the index, as
the kernel gives it; tuples of parameters, of which ``per_model`` has one tuple per model; N;
and the variant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sta_kernels.kernels.triton.formulas import (
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


@dataclass(frozen=True)
class Definition:
    """A formula as this backend has it.

    Attributes:
        value: the device function.
        is_delta: whether its result is a merged task vector δ, to be added to the base.
        cuts: which of its integers are indices that end ties, by the variant and the number of models.
        heavy: whether it has so much to compute that a thread takes four elements, however narrow they are.
    """

    value: Any
    is_delta: bool = False
    cuts: Callable[[tuple[int, ...], int], tuple[int, ...]] = lambda variant, n_models: ()
    heavy: bool = False


def _threshold_cut(variant: tuple[int, ...], n_models: int) -> tuple[int, ...]:
    return (0,)


FORMULAS = {
    "agreement": Definition(agreement.agreement, is_delta=True),
    "arcee_fusion": Definition(arcee_fusion.arcee_fusion, is_delta=True),
    "arcee_importance": Definition(arcee_fusion.arcee_importance),
    "conflict": Definition(trust_region.conflict),
    "distance": Definition(sparse_sum.distance),
    "elected_sign": Definition(sparse_sum.elected_sign, cuts=sparse_sum.cuts),
    "fisher": Definition(fisher.fisher),
    "nearswap": Definition(nearswap.nearswap, is_delta=True),
    "pcb": Definition(pcb.pcb, is_delta=True, heavy=True),
    "pcb_score": Definition(pcb.pcb_score, heavy=True),
    "product": Definition(product.product),
    "scaled_sum": Definition(scaled_sum.scaled_sum, is_delta=True),
    "sce": Definition(sce.sce, is_delta=True, cuts=_threshold_cut),
    "sce_energy": Definition(sce.sce_energy, cuts=_threshold_cut),
    "sparse_distance": Definition(sparse_sum.sparse_distance, cuts=sparse_sum.cuts),
    "sparse_sum": Definition(sparse_sum.sparse_sum, is_delta=True, cuts=sparse_sum.cuts),
    "trust_region": Definition(trust_region.trust_region, is_delta=True),
    "variance": Definition(sce.variance),
}
