"""``linear`` and ``task_arithmetic``."""

from __future__ import annotations

import pytest
import torch
from ops_oracle import assert_bits, float32

from sta_kernels import ops
from sta_kernels.kernels.reference import linear

pytestmark = pytest.mark.usefixtures("backend")


def test_worked_examples(FX):
    base, *finetuned = (torch.from_numpy(each.copy()) for each in (FX.base, *FX.finetuned))
    average = ops.linear(base, finetuned)
    assert average.tolist() == pytest.approx([1.125, -2.125, 0.458333, 0.125, 3, -0.791667], abs=1e-6)
    added = ops.task_arithmetic(base, finetuned, lambda_=0.4)
    assert added.tolist() == pytest.approx([1.15, -2.15, 0.45, 0.15, 3, -0.75], abs=1e-6)
    negated = ops.task_arithmetic(base, finetuned[:1], lambda_=-0.5)
    assert negated.tolist() == [0.75, -1.9375, 0.5, -0.1875, 3.375, -1.125]


@pytest.mark.parametrize("weight", [(1.0, 1.0, 1.0), (0.3, -0.2, 1.7), (1.0, -1.0, 0.0)])
@pytest.mark.parametrize("normalize", [True, False])
def test_equals_the_equations(operands, weight, normalize):
    given = operands((9, 23))
    models = [float32(each) for each in given.finetuned]
    divisor = (torch.tensor(sum(weight)).item() or 1.0) if normalize else 1.0
    expected = linear.weighted_sum_exact(None, models, weight, divisor, 1.0)
    assert_bits(ops.linear(given.base, given.finetuned, weight=weight, normalize=normalize), expected)
    expected = linear.weighted_sum_exact(float32(given.base), models, weight, divisor, 0.4)
    settings = {"weight": list(weight), "lambda_": 0.4, "normalize": normalize}
    assert_bits(ops.task_arithmetic(given.base, given.finetuned, **settings), expected)


@pytest.mark.parametrize("op", [ops.linear, ops.task_arithmetic])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_dtypes_layouts_and_one_weight_for_all(operands, op, dtype):
    given = operands((6, 7))
    expected = op(given.base, given.finetuned, weight=[0.5] * 3)
    transposed = [each.t().contiguous().t() for each in given.finetuned]
    out = torch.full((6, 14), torch.nan, dtype=dtype)[:, ::2]
    assert op(torch.nn.Parameter(given.base), transposed, weight=0.5, out=out) is out
    assert_bits(out, expected.to(dtype))
    assert op(given.base.to(dtype), given.finetuned).dtype == dtype


@pytest.mark.parametrize("op", [ops.linear, ops.task_arithmetic])
def test_out_may_be_an_operand(operands, op):
    given = operands((64, 65))
    expected = op(given.base, given.finetuned)
    for out in (given.base.clone(), given.finetuned[1]):
        base = out if out is not given.finetuned[1] else given.base
        version = out._version
        op(base, given.finetuned, out=out)
        assert_bits(out, expected)
        assert out._version > version


@pytest.mark.parametrize("op", [ops.linear, ops.task_arithmetic])
@pytest.mark.parametrize("shape", [(0,), (0, 3), ()])
def test_empty_and_scalar(operands, op, shape):
    given = operands(shape)
    assert op(given.base, given.finetuned).shape == given.base.shape


def test_linear_needs_no_base(operands):
    given = operands(dtype=torch.bfloat16)
    assert_bits(ops.linear(None, given.finetuned), ops.linear(given.base, given.finetuned))


def test_any_iterable_of_tensors_will_do(operands):
    given = operands()
    expected = ops.linear(given.base, given.finetuned)
    assert_bits(ops.linear(given.base, tuple(given.finetuned)), expected)
    assert_bits(ops.linear(given.base, (each for each in given.finetuned)), expected)
    assert_bits(ops.linear(given.base, torch.nn.ParameterList(given.finetuned)), expected)
