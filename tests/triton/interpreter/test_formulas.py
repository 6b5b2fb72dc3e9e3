"""Formulas: every bit that of the reference, tensors of differing parameters in one launch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from kernel_operands import Operand, values

from sta_kernels.kernels.buffers import DType
from sta_kernels.kernels.formula import Formula, FormulaSource
from sta_kernels.kernels.numpy_backend import NumpyBackend
from sta_kernels.kernels.reference.formulas import DELTAS
from sta_kernels.kernels.reference.formulas import FORMULAS as REFERENCE
from sta_kernels.kernels.triton.config import LaunchConfig
from sta_kernels.kernels.triton.evaluate import EvaluateSegment, launch_evaluate
from sta_kernels.kernels.triton.formulas import FORMULAS

# Overflow and NaN are among the operands, and the interpreter is NumPy.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DEVICE = torch.device("cpu")
BLOCKS = LaunchConfig(block=64, chunk=256, warps=1)
F32, BF16, F16, F64 = DType.F32, DType.BF16, DType.F16, DType.F64
ALL_TIES = (1 << 63) - 1


def formula(rng: np.random.Generator, name: str, variant: tuple[int, ...], n: int) -> Formula:
    """A formula with parameters drawn around the operands' sizes."""

    def numbers(*scales: float) -> tuple[float, ...]:
        return tuple(float(np.float32(scale * rng.uniform(0.5, 2))) for scale in scales)

    def rows(*scales: float) -> tuple[tuple[float, ...], ...]:
        return tuple(numbers(*scales) for _ in range(n))

    if name in ("sparse_sum", "elected_sign", "sparse_distance"):
        integers = [int(rng.integers(1 << 63)) << 1 | 1, int(rng.integers(1 << 32))]
        for task in range(n):
            cut = (int(rng.integers(600)), 0, ALL_TIES, 70)[task % 4]
            integers += [cut, int(rng.integers(600)), (int(rng.integers(1 << 32)), 1 << 32, 0)[task % 3], task]
        bands = [(*numbers(-1, 1.3), float(rng.choice([4, np.inf])), float(rng.choice([0, 0.5]))) for _ in range(n)]
        return Formula(name, variant, (*numbers(0.7, 3), rng.choice([1.0, -1.0])), tuple(bands), tuple(integers))
    if name == "agreement":
        asked = tuple((*row, float(i % 3 != 1)) for i, row in enumerate(rows(0.5)))
        return Formula(name, variant, numbers(0.7), asked, (int(rng.integers(1, n + 1)),))
    if name == "fisher":
        return Formula(name, variant, (), tuple((*row, 1e-6 * (i % 2)) for i, row in enumerate(rows(1))))
    if name in ("pcb", "pcb_score"):
        clips = tuple((*row, (0.0, 0.3)[i % 2], 1.0) for i, row in enumerate(rows(0.01, 4, 1)))
        return Formula(name, variant, numbers(0.7), clips, (n - 1,) if name == "pcb_score" else ())
    if name in ("sce", "sce_energy"):
        return Formula(name, variant, (-0.5, 0.25), rows(1), (70, n - 1))
    if name == "trust_region":
        return Formula(name, variant, numbers(0.7, 5), rows(1))
    return Formula(name, variant, numbers(0.5) if name in ("nearswap", "arcee_fusion") else ())


def source(
    rng: np.random.Generator,
    name: str,
    variant: tuple[int, ...],
    n: int,
    size: int,
    dtypes: Sequence[DType] = (F32,),
    *,
    offset: int = 0,
    special: float = 0.02,
    shift: int = 0,
) -> FormulaSource:
    """Operands on a grid, so that ties occur, of the dtypes in turn."""

    def operand(dtype: DType) -> Operand:
        drawn = values(rng, dtype, size, special=special, shift=shift)
        tied = rng.random(size) < 0.5
        drawn.array[tied] = values(rng, dtype, 8, scale=0.5).array[rng.integers(0, 8, int(tied.sum()))]
        return drawn

    turn = itertools.cycle(dtypes)
    base = operand(next(turn)).buffer()
    models = tuple(operand(next(turn)).buffer() for _ in range(n))
    stored = tuple(operand(next(turn)).buffer() for _ in range(n))
    masked = name in ("sparse_sum", "elected_sign", "sparse_distance") and variant[0] == 3
    wanted = masked or name in ("fisher", "arcee_fusion", "arcee_importance", "scaled_sum")
    wanted = wanted or (name in ("trust_region", "conflict") and variant[0] == 0)
    return FormulaSource(
        formula(rng, name, variant, n),
        models,
        None if name == "fisher" or (variant == (0,) and name in ("product", "scaled_sum")) else base,
        stored if wanted else (),
        offset,
    )


def check(
    sources: Sequence[FormulaSource], out: DType = F32, config: LaunchConfig | None = BLOCKS, shift: int = 0
) -> list[Operand]:
    """Launch, and hold every output against the reference's."""
    expected = [Operand(out, one.size) for one in sources]
    for one, result in zip(sources, expected, strict=True):
        NumpyBackend().evaluate(one, out=result.buffer(), threads=1)
    outputs = [Operand(out, one.size, shift) for one in sources]
    segments = [EvaluateSegment(one, result.buffer()) for one, result in zip(sources, outputs, strict=True)]
    launch_evaluate(DEVICE, segments, config=config)
    for one, reference, result in zip(sources, expected, outputs, strict=True):
        assert np.array_equal(result.bits(), reference.bits()), one.formula
        assert result.guards_hold()
    return outputs


GATES = [(gate, elects, divides) for gate in range(4) for elects, divides in ((0, 0), (1, 0), (1, 1))]
FORMS: dict[str, list[tuple[int, ...]]] = {
    "sparse_sum": GATES,
    "elected_sign": [(gate, 1, 0) for gate in range(4)],
    "sparse_distance": [(1, 0, 0), (2, 0, 0)],
    "trust_region": [(0,), (1,)],
    "conflict": [(0,), (1,)],
    "product": [(0,), (1,)],
    "scaled_sum": [(0,), (1,)],
    "pcb": [(1,), (2,), (3,)],
    "pcb_score": [(1,), (2,), (3,)],
}
CASES = [(name, form) for name in FORMULAS for form in FORMS.get(name, [()])]


def test_every_formula_of_the_reference_is_there() -> None:
    assert set(FORMULAS) == set(REFERENCE)
    assert {name for name, one in FORMULAS.items() if one.is_delta} == DELTAS


@pytest.mark.parametrize(("name", "form"), CASES, ids=str)
def test_tensors_of_one_formula_differ_in_parameters(name: str, form: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(name))
    few = name in ("distance", "sparse_distance", "nearswap", "arcee_fusion", "arcee_importance")
    check([source(rng, name, form, 1 if few else 3, size, offset=8 * size) for size in (0, 3, 300, 64)])


@pytest.mark.parametrize("n", [1, 2, 5, 9])
@pytest.mark.parametrize(("name", "form"), [("sparse_sum", (1, 1, 1)), ("sce", ()), ("pcb", (1,)), ("fisher", ())])
def test_numbers_of_models(name: str, form: tuple[int, ...], n: int) -> None:
    check([source(np.random.default_rng(n), name, form, n, 130)])
