"""``sta_merge``: values, layouts, dtypes, outputs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from ops_oracle import Operands, assert_bits, expected_merge
from torch import Tensor

from sta_kernels import ops
from sta_kernels.methods.quantile import rank_of_quantile

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
pytestmark = pytest.mark.usefixtures("backend")


@pytest.mark.parametrize(
    ("p", "first", "second"),
    [
        (0.7, (1, -2, 0.5, 0.375), (3, -1.125)),
        (0.3, (1, -1.75, 0.5, 0.75), (3, -1.125)),
        (0.0, (1, -1.75, 0.5, 0.75), (3, -1.125)),
        (1.0, (1, -2, 0.5, 0), (3, -1)),
    ],
)
def test_worked_example(FX, p, first, second):
    for part, importances, expected in (
        (slice(0, FX.split), FX.importances_a, first),
        (slice(FX.split, None), FX.importances_b, second),
    ):
        base, *finetuned = (torch.from_numpy(each[part].copy()) for each in (FX.base, *FX.finetuned))
        merged = ops.sta_merge(base, finetuned, [torch.from_numpy(each) for each in importances], p=p)
        assert merged.tolist() == list(expected)


def test_worked_example_of_amp(FX):
    base, *finetuned = (torch.from_numpy(each[:4].copy()) for each in (FX.base, *FX.finetuned))
    kept = torch.full((4,), -1)
    merged = ops.sta_merge(base, finetuned, None, measure="amp", kept=kept)
    assert merged.tolist() == [1.5, -2, 0.625, -0.375]
    assert kept.tolist() == [1, 1, 1, 1]  # and index 1, where two tasks tie, keeps none


@pytest.mark.parametrize("measure", ["lp", "amp", "lp_amp"])
@pytest.mark.parametrize("ties", ["drop", "all", "first"])
@pytest.mark.parametrize("n_models", [1, 2, 3, 6, 20])
def test_equals_the_equations(operands, measure, ties, n_models):
    given = operands((4, 33), n_models)
    weight = [1.0 - 0.3 * i for i in range(n_models)]
    arguments = (given.base, given.finetuned, None if measure == "amp" else given.importances)
    for p in (0.0, 0.3, 0.7, 1.0):
        k = rank_of_quantile(p, n_models)
        kept = torch.empty(n_models + 1, dtype=torch.int64)
        expected, mask = expected_merge(given, k, measure=measure, ties=ties, weight=weight, lambda_=0.4)
        merged = ops.sta_merge(*arguments, p=p, measure=measure, ties=ties, weight=weight, lambda_=0.4, kept=kept)
        assert_bits(merged, expected)
        assert kept.tolist() == [*mask.sum(axis=1), (~mask.any(axis=0)).sum()]


@pytest.mark.parametrize("keep", [0, 1, 2, 3])
def test_keep_counts_tasks_and_overrides_p(operands, keep):
    given = operands()
    expected, mask = expected_merge(given, 3 - keep, ties="first")
    merged = ops.sta_merge(*given, p=0.7, keep=keep, ties="first")
    assert_bits(merged, expected)
    assert (mask.sum(axis=0) == keep).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_operand_has_its_own_dtype(operands, dtype):
    given = operands(dtype=dtype)
    given.finetuned = [each.to(other) for each, other in zip(given.finetuned, DTYPES, strict=False)]
    given.importances = [each.to(other) for each, other in zip(given.importances, DTYPES[::-1], strict=False)]
    expected, mask = expected_merge(given, rank_of_quantile(0.7, 3))
    merged = ops.sta_merge(*given)
    assert merged.dtype == dtype
    if dtype == torch.float64:  # where nothing is selected, the base's own value, not rounded to float32
        routed = torch.from_numpy(mask.any(axis=0)).reshape(merged.shape)
        assert torch.equal(merged[~routed], given.base[~routed])
        merged = torch.where(routed, merged, merged.float().double())
    assert_bits(merged, expected)


def test_float64_base_survives_where_nothing_is_selected(operands):
    given = operands(dtype=torch.float64)
    given.base += 2.0**-40
    assert torch.equal(ops.sta_merge(*given, p=1.0), given.base)


def test_minus_zero_survives_where_nothing_is_selected(operands):
    given = operands((4,))
    given.base[:] = -0.0
    assert_bits(ops.sta_merge(*given, keep=0), given.base)


def views(tensor: Tensor) -> dict[str, Tensor]:
    """The same elements, laid out in memory in other ways."""
    misaligned = torch.empty(tensor.nbytes + 1, dtype=torch.uint8)[1:].numpy().view(np.uint8)
    floats = np.frombuffer(misaligned.data, np.float32).reshape(tensor.shape)
    floats[...] = tensor.numpy()
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan)
    wide[..., ::2] = tensor
    return {
        "transposed": tensor.t().contiguous().t(),
        "strided": wide[..., ::2],
        "misaligned": torch.from_numpy(floats),
        "parameter": torch.nn.Parameter(tensor.clone()),
    }


@pytest.mark.parametrize("layout", ["transposed", "strided", "misaligned", "parameter"])
def test_layout_changes_nothing(operands, layout):
    given = operands((7, 9))
    moved = Operands(
        views(given.base)[layout],
        [views(each)[layout] for each in given.finetuned],
        [views(each)[layout] for each in given.importances],
    )
    out = views(torch.full((7, 9), torch.nan))[layout]
    expected = ops.sta_merge(*given)
    merged = ops.sta_merge(*moved)
    assert merged.is_contiguous()
    assert not merged.requires_grad
    assert_bits(merged, expected)
    assert ops.sta_merge(*moved, out=out) is out
    assert_bits(out, expected)


def test_out_writes_its_own_elements_only(operands):
    given = operands((5, 6))
    sentinel = torch.full((7, 8), torch.nan)
    out = sentinel[1:6, 1:7]
    ops.sta_merge(*given, out=out)
    assert_bits(out, ops.sta_merge(*given))
    out[:] = torch.nan
    assert sentinel.isnan().all()


@pytest.mark.parametrize("shape", [(0,), (3, 0), (), (1,), (1, 1, 1)])
def test_empty_and_single_elements_give_the_base(operands, shape):
    given = operands(shape)
    kept = torch.full((4,), -1)
    merged = ops.sta_merge(*given, kept=kept)
    assert merged.shape == given.base.shape
    assert_bits(merged, given.base)
    assert kept.tolist() == [0, 0, 0, given.base.numel()]


@pytest.mark.parametrize("alias", ["base", "finetuned"])
def test_out_may_be_an_operand(operands, alias):
    given = operands((64, 65))
    expected = ops.sta_merge(*given)
    out = given.base if alias == "base" else given.finetuned[1]
    version = out._version
    assert ops.sta_merge(*given, out=out) is out
    assert_bits(out, expected)
    assert out._version > version


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_out_has_its_own_dtype(operands, dtype):
    given = operands()
    out = torch.empty(given.base.shape, dtype=dtype)
    assert_bits(ops.sta_merge(*given, out=out), ops.sta_merge(*given).to(dtype))


def test_normaliser_given_is_used(operands):
    given = operands()
    table = torch.tensor([[0.0, 1.0], [0.5, 4.0], [-1.0, 0.0]])
    expected, _ = expected_merge(given, 2, normaliser=table)
    assert_bits(ops.sta_merge(*given, p=0.7, normaliser=table), expected)
    assert_bits(ops.sta_merge(*given, p=0.7, normaliser=table.t().contiguous().t()), expected)
    assert not np.array_equal(expected, expected_merge(given, 2)[0])


def test_normaliser_of_the_same_tensors_changes_nothing(operands):
    given = operands((40, 41), 4)
    assert_bits(ops.sta_merge(*given, normaliser=ops.normaliser(given.importances)), ops.sta_merge(*given))


def test_nan_importance_is_never_kept(operands):
    given = operands((6,), 2)
    given.importances[1][2] = torch.nan
    table = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    kept = torch.empty(2, dtype=torch.int64)
    merged = ops.sta_merge(*given, keep=2, normaliser=table, kept=kept)
    assert kept.tolist() == [6, 5]
    assert not merged.isnan().any()
    ops.sta_merge(*given, keep=2, kept=kept)  # eq. 13's own range is NaN then
    assert kept.tolist() == [6, 0]


def test_importances_need_not_be_tied_to_a_thread_count(operands):
    given = operands((300, 301), 4)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(ops.sta_merge(*given))
    finally:
        torch.set_num_threads(threads)
    for one, other in itertools.pairwise(results):
        assert_bits(one, other)


def test_flush_denormal_of_the_caller_changes_nothing(operands):
    given = operands((64,))
    given.importances = [each * 1e-40 for each in given.importances]
    expected = ops.sta_merge(*given)
    assert (expected != given.base).any()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush")
    try:
        merged = ops.sta_merge(*given)
    finally:
        torch.set_flush_denormal(False)
    assert_bits(merged, expected)


def test_p_of_numpy_is_the_decimal_that_it_prints():
    base = torch.zeros(4)
    finetuned = [torch.full((4,), float(i + 1)) for i in range(11)]
    importances = [torch.tensor([0.0, 1.0, float(i), float(i * i)]) for i in range(11)]
    table = torch.tensor([[0.0, 1.0]] * 11)
    want, got = (ops.sta_merge(base, finetuned, importances, p=p, normaliser=table) for p in (0.7, np.float32(0.7)))
    assert torch.equal(got, want)
