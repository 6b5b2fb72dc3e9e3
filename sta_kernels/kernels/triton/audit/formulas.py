"""Cases of formulas: parameters of the lengths that each takes, whose values no machine code depends on."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from sta_kernels.kernels.buffers import Buffer, DType
from sta_kernels.kernels.formula import Formula, FormulaSource
from sta_kernels.kernels.triton import evaluate
from sta_kernels.kernels.triton.audit.record import Launched, record

_LENGTHS: dict[str, tuple[int, int, int, int]] = {
    # Shared parameters, those per model, integers, those per model.
    "sparse_sum": (3, 4, 2, 4),
    "elected_sign": (3, 4, 2, 4),
    "sparse_distance": (0, 4, 2, 4),
    "distance": (0, 0, 0, 0),
    "agreement": (1, 2, 1, 0),
    "fisher": (0, 2, 0, 0),
    "pcb": (1, 5, 0, 0),
    "pcb_score": (0, 2, 1, 0),
    "product": (0, 0, 0, 0),
    "sce": (2, 1, 1, 0),
    "sce_energy": (2, 0, 2, 0),
    "variance": (0, 0, 0, 0),
    "trust_region": (2, 1, 0, 0),
    "conflict": (0, 0, 0, 0),
    "nearswap": (1, 0, 0, 0),
    "arcee_fusion": (1, 0, 0, 0),
    "arcee_importance": (0, 0, 0, 0),
    "scaled_sum": (0, 0, 0, 0),
}
_MASK = 3


def reads_importances(name: str, variant: tuple[int, ...]) -> bool:
    """Whether a formula reads something stored beside the models."""
    if name in ("trust_region", "conflict"):
        return variant == (0,)
    if name in ("sparse_sum", "elected_sign", "sparse_distance"):
        return variant[0] == _MASK
    return name in ("fisher", "arcee_fusion", "arcee_importance", "scaled_sum")


def launched(
    new: Callable[[DType], Buffer],
    name: str,
    variant: tuple[int, ...],
    n: int,
    weights: DType,
    importance: DType,
) -> tuple[Launched, int]:
    """What a formula over many elements would launch, and the bytes that it must read of each.

    Args:
        new: makes a buffer that nobody looks into.
        name: of the formula.
        variant: its own.
        n: number of models.
        weights: dtype of base, models and result.
        importance: of importances, where the formula reads any.
    """
    shared, per_model, integers, integers_per_model = _LENGTHS[name]
    formula = Formula(
        name,
        variant,
        (0.5,) * shared,
        ((0.5,) * per_model,) * n if per_model else (),
        (2,) * (integers + n * integers_per_model),
    )
    baseless = name == "fisher" or (name in ("product", "scaled_sum") and variant == (0,))
    base = None if baseless else new(weights)
    importances = tuple(new(importance) for _ in range(n if reads_importances(name, variant) else 0))
    source = FormulaSource(formula, tuple(new(weights) for _ in range(n)), base, importances)
    segment = evaluate.EvaluateSegment(source, new(weights))
    (found,) = record(functools.partial(evaluate.launch_evaluate, torch.device("cpu"), [segment]))
    return found, sum(operand.dtype.itemsize for operand in source.operands)
