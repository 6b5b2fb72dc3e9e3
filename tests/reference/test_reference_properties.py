"""Properties of the exact forms, and every kernel against one scalar at a time in plain Python."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sta_kernels.kernels.reference import linear, sta_forget, sta_merge
from sta_kernels.kernels.reference.environment import ieee_arithmetic
from sta_kernels.kernels.reference.quantile import quantile_literal, rank_exact
from sta_kernels.kernels.reference.statistics import minmax_normaliser_exact

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

TIES = ("drop", "all", "first")
SPECIAL = (np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-45, -1e-45, 1.1754944e-38, 1.0, 1.0000001, 3.4e38, -3.4e38)
anything = st.one_of(st.sampled_from(np.float32(SPECIAL).tolist()), st.floats(width=32))
moderate = st.floats(-1024, 1024, width=32, allow_subnormal=False)
percents = st.integers(0, 100).map(lambda percent: percent / 100)


def tables(elements, least=1):
    shapes = st.tuples(st.integers(least, 9), st.integers(1, 6))
    return shapes.flatmap(lambda shape: arrays(np.float32, shape, elements=elements))


def rounded(value):
    """One rounding to float32. In float64 first, + − × ÷ of float32 operands round innocuously."""
    return float(np.float32(value))


def divided(a, b):
    return float(np.float64(a) / np.float64(b))


def scalar_merge(base, finetuned, importances, normaliser, k, ties, weights, lambda_):
    """One position, by the definitions: returns the value and the mask."""
    x = []
    for importance, (shift, divisor) in zip(importances, normaliser, strict=True):
        difference = rounded(importance - shift)
        x.append(rounded(divided(difference, divisor)) if divisor != 0 else rounded(difference * 0.0))
    y = [np.inf if np.isnan(value) else value for value in x]
    s, n = sorted(y), len(y)
    mask = []
    for i in range(n):
        if ties == "drop":
            chosen = k == 0 or y[i] > s[k - 1]
        elif ties == "all":
            chosen = k < n and y[i] >= s[k]
        else:
            chosen = sum(v > y[i] for v in y) + sum(v == y[i] for v in y[:i]) < n - k
        mask.append(chosen and not np.isnan(x[i]))
    total = 0.0
    for chosen, theta, weight in zip(mask, finetuned, weights, strict=True):
        if chosen:
            total = rounded(total + rounded(rounded(weight) * rounded(theta - base)))
    return (rounded(base + rounded(rounded(lambda_) * total)) if any(mask) else base), mask


def same_bits(a, b):
    """Equal to the bit, NaN as one value."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    np.testing.assert_array_equal(np.nan_to_num(a).view(np.uint32), np.nan_to_num(b).view(np.uint32))


@settings(max_examples=300)
@given(st.data())
def test_merge_equals_one_scalar_at_a_time(data):
    shape = n_tasks, n = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    table = arrays(np.float32, shape, elements=anything)
    finetuned, importances = data.draw(table), data.draw(table)
    base = data.draw(arrays(np.float32, n, elements=anything))
    normaliser = data.draw(arrays(np.float32, (n_tasks, 2), elements=anything))
    k, ties = data.draw(st.integers(0, n_tasks)), data.draw(st.sampled_from(TIES))
    weights = data.draw(st.lists(moderate, min_size=n_tasks, max_size=n_tasks))
    lambda_ = data.draw(moderate)
    normalised = sta_merge.normalise_exact(importances, *normaliser.T)
    mask = sta_merge.mask_exact(normalised, k, ties)
    merged = sta_merge.merge_exact(base, finetuned, mask, weights, lambda_)
    for i in range(n):
        value, chosen = scalar_merge(
            float(base[i]),
            finetuned[:, i].tolist(),
            importances[:, i].tolist(),
            normaliser.tolist(),
            k,
            ties,
            weights,
            lambda_,
        )
        assert mask[:, i].tolist() == chosen
        same_bits(merged[i], value)


@given(tables(anything), st.data())
def test_sorting_equals_counting(values, data):
    k = data.draw(st.integers(0, len(values)))
    for ties in TIES:
        np.testing.assert_array_equal(
            sta_merge.mask_exact(values, k, ties), sta_merge.rank_mask_literal(values, k, ties)
        )


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=20), percents)
def test_the_rank_selects_what_the_interpolated_threshold_selects(values, p):
    """In rationals, where nothing rounds; few distinct values, so that ties abound."""
    s = sorted(map(Fraction, values))
    position = 1 + (len(s) - 1) * Fraction(str(p))
    k = int(position)
    threshold = s[k - 1] + (position - k) * (s[min(k, len(s) - 1)] - s[k - 1])
    expected = [value > threshold for value in values]
    column = np.array(values, np.float32)[:, None]
    assert k == rank_exact(p, len(values))
    assert sta_merge.mask_exact(column, k)[:, 0].tolist() == expected
    assert sta_merge.rank_mask_literal(column, k)[:, 0].tolist() == expected
    assert quantile_literal(column, p)[0] == pytest.approx(float(threshold), abs=1e-12)


@given(tables(anything), st.data())
def test_selection_follows_a_permutation_of_the_tasks(values, data):
    order = data.draw(st.permutations(range(len(values))))
    k = data.draw(st.integers(0, len(values)))
    for ties in ("drop", "all"):
        np.testing.assert_array_equal(
            sta_merge.mask_exact(values[order], k, ties), sta_merge.mask_exact(values, k, ties)[order]
        )


@given(tables(anything), st.data())
def test_how_many_are_selected(values, data):
    k = data.draw(st.integers(0, len(values)))
    keep = len(values) - k
    counts = {ties: sta_merge.mask_exact(values, k, ties).sum(axis=0) for ties in TIES}
    is_whole = ~np.isnan(values).any(axis=0)
    assert (counts["drop"] <= counts["first"]).all()
    assert (counts["first"] <= counts["all"]).all()
    np.testing.assert_array_equal(counts["first"][is_whole], keep)
    assert (counts["drop"] <= keep).all()
    assert keep == 0 or (counts["all"][is_whole] >= keep).all()


def normalised(values):
    shift, divisor = np.array([minmax_normaliser_exact(row) for row in values], np.float32).T
    return sta_merge.normalise_exact(values, shift, divisor)


@given(tables(st.one_of(st.sampled_from((-0.0, 0.0, 1.0)), moderate)), st.data())
def test_scaling_an_importance_by_a_power_of_two_changes_nothing(values, data):
    exponents = data.draw(st.lists(st.integers(-20, 20), min_size=len(values), max_size=len(values)))
    values = np.where(np.abs(values) < 2.0**-60, 0, values)  # differences stay clear of subnormals
    scaled = np.ldexp(values, np.array(exponents)[:, None])
    np.testing.assert_array_equal(normalised(scaled), normalised(values))


@given(tables(st.floats(0, 1, width=32)))
def test_normalised_values_lie_between_zero_and_one(values):
    x = normalised(values)
    assert ((x >= 0) & (x <= 1)).all()
    for row, result in zip(values, x, strict=True):
        if row.min() < row.max():
            assert result[row.argmin()] == 0
            assert result[row.argmax()] == 1


dyadic = st.integers(-64, 64).map(lambda eighths: eighths / 8)


@given(st.data(), percents)
def test_both_forms_agree_on_dyadic_values(data, p):
    """Importances from 0 to 8 normalise exactly, so that the literal quantile meets no rounding either."""
    n_tasks, n = data.draw(st.integers(1, 8)), data.draw(st.integers(2, 6))
    importances = data.draw(arrays(np.float32, (n_tasks, n), elements=st.integers(0, 8)))
    importances[:, 0], importances[:, 1] = 0, 8
    base = data.draw(arrays(np.float32, n, elements=dyadic))
    finetuned = data.draw(arrays(np.float32, (n_tasks, n), elements=dyadic))
    weights, lambda_ = data.draw(st.lists(dyadic, min_size=n_tasks, max_size=n_tasks)), data.draw(dyadic)
    literal = sta_merge.quantile_mask_literal([sta_merge.normalise_literal(row) for row in importances], p)
    mask = sta_merge.mask_exact(normalised(importances), rank_exact(p, n_tasks))
    np.testing.assert_array_equal(mask, literal)
    np.testing.assert_array_equal(
        sta_merge.merge_exact(base, finetuned, mask, weights, lambda_),
        sta_merge.merge_literal(base, finetuned, literal, weights, lambda_),
    )
    np.testing.assert_array_equal(
        linear.weighted_sum_exact(base, finetuned, weights, 1, lambda_),
        linear.task_arithmetic_literal(base, finetuned, lambda_, weights),
    )


@given(st.data())
def test_weighted_sum_equals_one_scalar_at_a_time(data):
    n_models = data.draw(st.integers(1, 5))
    models = data.draw(arrays(np.float32, (n_models, 1), elements=anything))
    base = data.draw(st.none() | arrays(np.float32, 1, elements=anything))
    weights = data.draw(st.lists(moderate, min_size=n_models, max_size=n_models))
    divisor, lambda_ = data.draw(st.just(0.0) | moderate), data.draw(moderate)
    total = 0.0
    for theta, weight in zip(models[:, 0].tolist(), weights, strict=True):
        tau = theta if base is None else rounded(theta - float(base[0]))
        total = rounded(total + rounded(weight * tau))
    total = rounded(lambda_ * rounded(divided(total, divisor or 1.0)))
    expected = total if base is None else rounded(float(base[0]) + total)
    same_bits(linear.weighted_sum_exact(base, models, weights, divisor, lambda_), [expected])


@given(arrays(np.float32, (4, 3), elements=anything), anything, moderate, moderate)
def test_forget_equals_one_scalar_at_a_time(values, threshold, weight, lambda_):
    target, base, finetuned, importance = values
    mask = sta_forget.forget_mask_exact(importance, threshold)
    result = sta_forget.forget_exact(target, base, finetuned, mask, weight, lambda_)
    for i, (own, origin, theta, value) in enumerate(values.T.tolist()):
        expected = own
        if value > threshold:
            expected = rounded(own - rounded(lambda_ * rounded(weight * rounded(theta - origin))))
        same_bits(result[i], expected)


def test_subnormal_importances_are_ranked_and_normalised():
    tiny = np.float32(1e-45)
    values = np.float32([[0, tiny, 3 * tiny], [0, 2 * tiny, 3 * tiny], [0, 3 * tiny, 4 * tiny]])
    x = normalised(values)
    np.testing.assert_array_equal(x[:, 1], np.float32([1 / 3, 2 / 3, 3 / 4]))
    np.testing.assert_array_equal(sta_merge.mask_exact(x, 2)[:, 1], [False, False, True])
    np.testing.assert_array_equal(sta_merge.mask_exact(values, 1)[:, 1], [False, True, True])


def test_arithmetic_keeps_subnormals_whatever_the_caller_has_set():
    torch = pytest.importorskip("torch")
    tiny = np.full(1000, 1e-45, np.float32)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        if (tiny + tiny).any():
            pytest.skip("NumPy does not compute under the caller's mode here")
        with ieee_arithmetic():
            kept = tiny + tiny
        flushed_again = tiny + tiny
    finally:
        torch.set_flush_denormal(False)
    assert (kept > 0).all()
    assert not flushed_again.any()
