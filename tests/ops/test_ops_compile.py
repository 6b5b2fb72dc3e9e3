"""``torch.compile(fullgraph=True)``: the same bits as eager, with every knob an argument."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import pytest
import torch
from ops_oracle import assert_bits

from sta_kernels import ops
from sta_kernels.methods.quantile import rank_of_quantile
from sta_kernels.ops.sta_merge import _rank_steps


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


compiled = functools.partial(torch.compile, fullgraph=True, backend="aot_eager")


def test_p_is_an_argument(operands):
    given = operands((5, 7), 5)

    def merge(base, finetuned, importances, p):
        return ops.sta_merge(base, finetuned, importances, p=p) * 2

    function = compiled(merge)
    seen = set()
    for p in [step / 16 for step in range(17)]:  # more values than the compiler compiles one function for
        merged = function(*given, p)
        assert_bits(merged, merge(*given, p))
        seen.add(tuple(merged.flatten().tolist()))
    assert len(seen) == 5  # k = 1..5


@pytest.mark.parametrize("n_models", [*range(1, 22), 33, 64, 91])
def test_ranks_change_exactly_at_the_steps(n_models):
    steps = _rank_steps(n_models)
    assert [rank_of_quantile(step, n_models) for step in steps] == list(range(1, n_models + 1))
    below = [math.nextafter(step, 0.0) for step in steps[1:]]
    assert [rank_of_quantile(p, n_models) for p in below] == list(range(1, n_models))


def test_other_knobs_are_arguments(operands):
    given = operands()

    def merge(base, finetuned, importances, weight, lambda_, keep):
        merged = ops.sta_merge(base, finetuned, importances, weight=weight, lambda_=lambda_, keep=keep)
        added = ops.task_arithmetic(base, finetuned, weight=[weight, 1.0, lambda_], lambda_=lambda_)
        forgotten = ops.sta_forget(base, base, finetuned[0], importances[0], p=weight, lambda_=lambda_)
        return merged + added + forgotten + ops.linear(base, finetuned, weight=[1.0, lambda_, weight])

    function = compiled(merge)
    for knobs in ((0.5, 1.0, 0), (0.25, 1.0, 1), (0.25, 0.4, 2), (1.0, -0.5, 3)):
        assert_bits(function(*given, *knobs), merge(*given, *knobs))


def test_shapes_may_vary(operands):
    function = compiled(ops.sta_merge, dynamic=True)
    for shape in ((3, 5), (4, 6), (1, 9), (0, 2)):
        given = operands(shape)
        assert_bits(function(*given), ops.sta_merge(*given))


def test_every_op_in_one_graph(operands):
    given = operands((6, 7))

    def everything(base, finetuned, importances, p, rank):
        table = ops.normaliser(importances)
        kept = torch.empty(4, dtype=torch.int64)
        merged = ops.sta_merge(base, finetuned, importances, p=p, normaliser=table, kept=kept)
        again = ops.sta_merge(base, finetuned, None, measure="amp", keep=1, out=torch.empty_like(base))
        forgotten = ops.sta_forget(merged, base, finetuned[0], importances[0], p=p)
        in_place = ops.sta_forget(base, base, finetuned[1], importances[1], out=forgotten.clone())
        total = ops.taylor_accumulate_(torch.zeros_like(base), finetuned[0])
        importance, stats = ops.taylor_finish(total, base, measure="lp_amp")
        total_importance, total_stats = ops.taylor_finish(total, base, out=total)
        return (
            table, kept, merged, again, forgotten, in_place, importance, stats, total_importance, total_stats,
            ops.minmax(finetuned),
            ops.normaliser([finetuned, importances], "mean"),
            ops.order_statistic(base, rank),
            ops.linear(base, finetuned, out=torch.empty_like(base)),
            ops.linear(None, finetuned),
            ops.task_arithmetic(base, finetuned, lambda_=0.4, out=torch.empty_like(base)),
        )  # fmt: skip

    for rank in (1, 7, 42):
        results = compiled(everything)(*given, 0.7, rank)
        for result, expected in zip(results, everything(*given, 0.7, rank), strict=True):
            if expected.dtype == torch.int64:
                assert torch.equal(result, expected)
            else:
                assert_bits(result, expected)


def test_writes_into_arguments(operands):
    given = operands()
    expected = ops.sta_merge(*given)
    expected_counts, kept, out = torch.empty(3, dtype=torch.int64), torch.empty(3, dtype=torch.int64), torch.empty(3, 5)
    ops.sta_merge(*given, kept=expected_counts)

    def merge(base, finetuned, importances, out, kept):
        return ops.sta_merge(base, finetuned, importances, out=out, kept=kept)

    function = compiled(merge)
    function(*given, out, kept)
    assert_bits(out, expected)
    assert torch.equal(kept, expected_counts)
    base = given.base.clone()
    function(base, given.finetuned, given.importances, base, kept)  # in place
    assert_bits(base, expected)


def test_inductor(operands):
    """No generated C++ around the ops, so that the test takes no compiler's time."""
    given = operands((8, 9))

    def merge(base, finetuned, importances, p, out):
        merged = ops.sta_merge(base.t(), [each.t() for each in finetuned], [each.t() for each in importances], p=p)
        return ops.task_arithmetic(merged, [each.t() for each in finetuned], out=out)

    function = torch.compile(merge, fullgraph=True)
    for p in (0.0, 0.4, 0.9):
        out, expected = torch.empty(9, 8), torch.empty(9, 8)
        assert_bits(function(*given, p, out), merge(*given, p, expected))
        assert_bits(out, expected)


def test_parameters_are_plain_values(operands):
    """No gradient flows through a merge, and none is demanded."""
    given = operands()
    base = torch.nn.Parameter(given.base)
    finetuned = [torch.nn.Parameter(each) for each in given.finetuned]
    merged = compiled(ops.sta_merge)(base, finetuned, given.importances)
    assert not merged.requires_grad
    assert_bits(merged, ops.sta_merge(*given))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: {"p": 1.5}, r"p: 1\.5"),
        (lambda given: {"ties": "both"}, "ties: 'both'"),
        (lambda given: {"importances": given.importances[:2]}, "importances: 2 given, finetuned has 3"),
        (lambda given: {"base": given.base.int()}, r"base: dtype torch\.int32"),
        (lambda given: {"finetuned": [*given.finetuned[:2], given.base.t()]}, r"finetuned\[2\]: shape \["),
    ],
)
def test_errors_are_those_of_eager(operands, change, message):
    given = operands()
    arguments = {"base": given.base, "finetuned": given.finetuned, "importances": given.importances} | change(given)
    with pytest.raises((ValueError, TypeError), match=message):
        ops.sta_merge(**arguments)
    with pytest.raises(RuntimeError, match=message):
        compiled(lambda arguments: ops.sta_merge(**arguments))(arguments)
