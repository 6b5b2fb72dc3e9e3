"""Formulas: every bit that of the reference, tensors of differing parameters in one launch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from formula_cases import NAMES, formula_cases, same_values
from kernel_operands import Operand, values

from sta_kernels.kernels.buffers import DType
from sta_kernels.kernels.formula import Formula, FormulaSource
from sta_kernels.kernels.numpy_backend import NumpyBackend
from sta_kernels.kernels.reference.formulas import DELTAS
from sta_kernels.kernels.triton import evaluate
from sta_kernels.kernels.triton.config import LaunchConfig
from sta_kernels.kernels.triton.evaluate import EvaluateSegment, launch_evaluate
from sta_kernels.kernels.triton.formulas import FORMULAS

# Overflow and NaN are among the operands, and the interpreter is NumPy.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DEVICE = torch.device("cpu")
BLOCKS = LaunchConfig(block=64, chunk=256, warps=1)
LARGE = LaunchConfig(block=1024, chunk=2048, warps=4)
"""Fewer steps for the interpreter."""
F32, BF16, F16, F64 = DType.F32, DType.BF16, DType.F16, DType.F64
ALL_TIES = (1 << 63) - 1


def check(
    sources: Sequence[FormulaSource],
    outs: Sequence[DType] = (F32,),
    config: LaunchConfig | None = BLOCKS,
    *,
    shift: int = 0,
    is_field: bool = False,
) -> None:
    """Launch, and hold every output, of the dtypes in turn, against the reference's."""
    dtypes = [outs[i % len(outs)] for i in range(len(sources))]
    outputs = [Operand(dtype, one.size, shift) for one, dtype in zip(sources, dtypes, strict=True)]
    segments = [EvaluateSegment(one, result.buffer(), is_field) for one, result in zip(sources, outputs, strict=True)]
    launch_evaluate(DEVICE, segments, config=config)
    for one, result in zip(sources, outputs, strict=True):
        expected = Operand(result.dtype, one.size)
        if is_field:
            expected.array[:] = NumpyBackend().values(one, 0, one.size)
        else:
            NumpyBackend().evaluate(one, out=expected.buffer(), threads=1)
        assert same_values(result.array, expected.array, result.dtype), one.formula
        assert result.guards_hold()


def test_every_formula_of_the_reference_is_there() -> None:
    assert tuple(sorted(FORMULAS)) == NAMES
    assert {name for name, one in FORMULAS.items() if one.is_delta} == DELTAS


@pytest.mark.parametrize("name", NAMES)
def test_the_cases_of_all_backends(name: str) -> None:
    check(formula_cases(name), (F32, BF16, F64, F16), LARGE)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite(name: str) -> None:
    check(formula_cases(name, nonfinite=True)[:3], (F32, F16), LARGE)


@pytest.mark.parametrize("name", sorted(DELTAS))
def test_statistics_see_the_task_vector_itself(name: str) -> None:
    check(formula_cases(name)[:2], config=LARGE, is_field=True)


def bands(sizes: Sequence[int], *, shift: int = 0, dtypes: tuple[DType, DType] = (F32, F32)) -> list[FormulaSource]:
    """Tensors of one signature, each with thresholds, cuts and an offset of its own, and many ties."""
    rng = np.random.default_rng(len(sizes))
    found = []
    for number, size in enumerate(sizes):
        operands = [values(rng, dtype, size, shift=shift) for dtype in (dtypes[0], *2 * dtypes[1:])]
        for operand in operands:
            operand.array[:] = rng.integers(-2, 3, size) if operand.dtype is not BF16 else 0x3F80
        offset = 400 * number
        cuts = [offset + int(rng.integers(0, max(1, size))), 0, offset + size // 2, ALL_TIES]
        formula = Formula(
            "sparse_sum",
            (1, 1, 1),
            (0.3 + number, 1.0, 1.0),
            ((1.0, 0.7, 3.0, 1.0), (0.5, 1.0, math.inf, number % 3)),
            (0, 0, cuts[0], cuts[number % 4], 0, 0, cuts[3], cuts[2], 0, 1),
        )
        base, *models = (operand.buffer() for operand in operands)
        found.append(FormulaSource(formula, tuple(models), base, (), offset))
    return found


def test_tensors_that_differ_in_parameters_share_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = []
    upload = evaluate.upload
    monkeypatch.setattr(evaluate, "upload", lambda *arrays: uploads.append(arrays) or upload(*arrays))
    check(bands((0, 1, 7, 64, 300, 1000)))
    assert len(uploads) == 1


@pytest.mark.parametrize("dtypes", [(F32, F32), (BF16, F32), (F16, BF16), (F64, F16)], ids=str)
def test_operands_off_the_16_byte_grid(dtypes: tuple[DType, DType]) -> None:
    check(bands((300, 65), dtypes=dtypes, shift=1), (BF16,), shift=3)


@pytest.mark.parametrize("config", [BLOCKS, LARGE], ids=["a few", "eight per thread"])
def test_draws_do_not_depend_on_where_a_part_begins(config: LaunchConfig) -> None:
    rng = np.random.default_rng(0)
    base, model = (values(rng, F32, 700) for _ in range(2))
    formula = Formula("sparse_sum", (2, 0, 0), (1.0, 1.0, 1.0), ((1.0, 2.0, 0.0, 0.0),), (7, 9, 0, 0, 1 << 31, 3))
    whole = Operand(F32, 700)
    source = FormulaSource(formula, (model.buffer(),), base.buffer(), (), 8)
    launch_evaluate(DEVICE, [EvaluateSegment(source, whole.buffer())], config=config)
    expected = Operand(F32, 700)
    NumpyBackend().evaluate(source, out=expected.buffer(), threads=1)
    assert np.array_equal(whole.bits(), expected.bits())
    for start, stop in ((0, 64), (4, 70), (1, 300), (103, 700)):
        part = replace(
            source,
            models=(model.buffer().slice(start, stop),),
            base=base.buffer().slice(start, stop),
            offset=8 + start,
        )
        out = Operand(F32, stop - start)
        launch_evaluate(DEVICE, [EvaluateSegment(part, out.buffer())], config=config)
        assert np.array_equal(out.bits(), whole.bits()[start:stop])
    changed = whole.array != base.array
    assert 250 < int(changed.sum()) < 450


def test_the_base_keeps_its_value_where_nothing_is_added() -> None:
    base, model = Operand(F64, 200), Operand(F64, 200)
    base.array[:] = np.linspace(-1, 1, 200)
    base.array[::3] = -0.0
    model.array[:] = base.array
    model.array[1::3] += 1
    formula = Formula("sparse_sum", (0, 0, 0), (1.0, 1.0, 1.0), ((1.0, 1.0, 0.0, 0.0),), (0, 0, 0, 0, 0, 0))
    source = FormulaSource(formula, (model.buffer(),), base.buffer())
    check([source] * 4, (F64, F32, BF16, F16))
    out = Operand(F64, 200)
    launch_evaluate(DEVICE, [EvaluateSegment(source, out.buffer())])
    same = np.arange(200) % 3 != 1
    assert np.array_equal(out.bits()[same], base.bits()[same])


def test_the_output_may_be_an_operand() -> None:
    rng = np.random.default_rng(1)
    for place in range(3):
        operands = [values(rng, F32, 600) for _ in range(3)]
        formula = Formula("sparse_sum", (0, 1, 0), (0.5, 1.0, 1.0), ((1.0, 1.0, 0.0, 0.0),) * 2, (0,) * 10)
        base, *models = (operand.buffer() for operand in operands)
        source = FormulaSource(formula, tuple(models), base)
        expected = Operand(F32, 600)
        NumpyBackend().evaluate(source, out=expected.buffer(), threads=1)
        launch_evaluate(DEVICE, [EvaluateSegment(source, operands[place].buffer())], config=BLOCKS)
        assert np.array_equal(operands[place].bits(), expected.bits())


def test_only_contiguous_buffers_of_one_size() -> None:
    column, short = Operand(F32, 8).buffer(), Operand(F32, 3).buffer()
    column.shape, column.strides = (2,), (16,)
    whole = Operand(F32, 2).buffer()
    with pytest.raises(ValueError, match="contiguous"):
        launch_evaluate(DEVICE, [EvaluateSegment(FormulaSource(Formula("distance"), (column,), whole), whole)])
    with pytest.raises(ValueError, match=r"distance: .* differ in size"):
        launch_evaluate(DEVICE, [EvaluateSegment(FormulaSource(Formula("distance"), (short,), whole), whole)])
    launch_evaluate(DEVICE, [])
