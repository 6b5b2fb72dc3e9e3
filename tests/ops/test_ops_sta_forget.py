"""``sta_forget``: values, layouts, outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ops_oracle import assert_bits, float32

from sta_kernels import ops
from sta_kernels.kernels.reference import importance, sta_forget
from sta_kernels.methods.quantile import rank_of_quantile

pytestmark = pytest.mark.usefixtures("backend")


@pytest.mark.parametrize(
    ("scores", "n_kept", "expected"),
    [
        ((5, 1, 7, 3, 2, 6), 2, (1, -2, 0.5, 0, 3, -1.25)),
        ((5, 1, 7, 7, 2), 2, (1, -2, 0.5, -0.375, 3)),
    ],
)
def test_worked_example(FX, scores, n_kept, expected):
    n_elements = len(scores)
    base = torch.from_numpy(FX.base[:n_elements].copy())
    finetuned = torch.from_numpy(FX.finetuned[0][:n_elements].copy())
    kept = torch.full((1,), -1)
    forgotten = ops.sta_forget(base, base, finetuned, torch.tensor(scores, dtype=torch.float32), p=0.7, kept=kept)
    assert forgotten.tolist() == list(expected)
    assert kept.item() == n_kept


@pytest.mark.parametrize("measure", ["lp", "amp", "lp_amp"])
@pytest.mark.parametrize("p", [0.0, 0.3, 0.7, 1.0])
def test_equals_the_equations(operands, measure, p):
    given = operands((7, 31), 2)
    (finetuned, target), score = given.finetuned, given.importances[0]
    values = importance.measure_exact(measure, float32(score), float32(finetuned))
    threshold = np.sort(values)[rank_of_quantile(p, values.size) - 1]
    mask = values > threshold
    expected = sta_forget.forget_exact(float32(target), float32(given.base), float32(finetuned), mask, 0.3, 1.7)
    stored = None if measure == "amp" else score
    kept = torch.full((1,), -1)
    settings = {"p": p, "measure": measure, "weight": 0.3, "lambda_": 1.7}
    assert_bits(ops.sta_forget(target, given.base, finetuned, stored, **settings), expected)
    assert_bits(ops.sta_forget(target, given.base, finetuned, stored, kept=kept, **settings), expected)
    assert kept.item() == mask.sum()


def test_mixed_dtypes_and_layouts(operands):
    given = operands((8, 9), 1)
    score = given.importances[0]
    plain = ops.sta_forget(given.base, given.base, given.finetuned[0], score)
    bfloat16 = given.base.bfloat16()
    mixed = ops.sta_forget(
        bfloat16.t().contiguous().t(),
        torch.nn.Parameter(given.base),
        given.finetuned[0].double(),
        score.t().contiguous().t(),
        out=torch.empty(8, 9, dtype=torch.float64),
    )
    assert mixed.dtype == torch.float64
    subtracted = plain != given.base
    assert subtracted.any()
    assert torch.equal(mixed[~subtracted], bfloat16.double()[~subtracted])
    assert (mixed != bfloat16.double())[subtracted].all()


@pytest.mark.parametrize("alias", ["target", "base", "finetuned"])
def test_out_may_be_an_operand(operands, alias):
    given = operands((64, 65), 2)
    named = {"target": given.finetuned[1], "base": given.base, "finetuned": given.finetuned[0]}
    expected = ops.sta_forget(*named.values(), given.importances[0])
    version = named[alias]._version
    ops.sta_forget(*named.values(), given.importances[0], out=named[alias])
    assert_bits(named[alias], expected)
    assert named[alias]._version > version


@pytest.mark.parametrize("shape", [(0,), (2, 0), (), (1,)])
def test_empty_and_single_elements_give_the_target(operands, shape):
    given = operands(shape, 1)
    kept = torch.full((1,), -1)
    forgotten = ops.sta_forget(given.base, given.base, given.finetuned[0], given.importances[0], kept=kept)
    assert_bits(forgotten, given.base)
    assert forgotten.shape == given.base.shape
    assert kept.item() == 0


def test_nan_importance_is_not_subtracted(operands):
    given = operands((10,), 1)
    score = torch.arange(10.0)
    score[9] = torch.nan
    forgotten = ops.sta_forget(given.base, given.base, given.finetuned[0], score, p=0.7)
    changed = (forgotten != given.base).nonzero().flatten()
    assert changed.tolist() == [7, 8]  # NaN ranks last: k = 7, s_7 = 6


def test_p_of_numpy_is_the_decimal_that_it_prints():
    base, model = torch.zeros(11), torch.arange(1.0, 12.0)
    want, got = (ops.sta_forget(base, base, model, model, p=p) for p in (0.7, np.float32(0.7)))
    assert torch.equal(got, want)


def test_flush_denormal_of_the_caller_changes_nothing():
    """The threshold is subnormal here, and crosses from one call to the next."""
    importance = torch.tensor([1e-42, 2e-42, 3e-42, 5e-42, 1.0, 2.0])
    given = torch.zeros(6), torch.zeros(6), torch.ones(6), importance
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush")
    try:
        forgotten = ops.sta_forget(*given, p=0.5)
        rank = ops.order_statistic(importance, 3).view(torch.int32).item()
    finally:
        torch.set_flush_denormal(False)
    assert forgotten.tolist() == [0, 0, 0, -1, -1, -1]
    assert rank == importance[2].view(torch.int32).item()
