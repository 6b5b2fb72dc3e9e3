"""STA forgetting (eq. 18–20): the worked example, its edges, and one rounding per step."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.reference import sta_forget
from sta_kernels.kernels.reference.order import order_statistic_literal
from sta_kernels.kernels.reference.quantile import rank_exact

IMPORTANCE = np.float32((5, 1, 7, 3, 2, 6))


def forget_literal(target, base, finetuned, importance, p):
    return sta_forget.forget_literal(target, base, finetuned, sta_forget.forget_mask_literal(importance, p))


def forget_exact(target, base, finetuned, importance, p):
    threshold = order_statistic_literal(importance, rank_exact(p, importance.size))
    mask = sta_forget.forget_mask_exact(importance, threshold)
    return sta_forget.forget_exact(target, base, finetuned, mask)


def test_worked_example_threshold():
    assert rank_exact(0.7, 6) == 4
    assert order_statistic_literal(IMPORTANCE, 4) == 5
    assert sta_forget.threshold_literal(IMPORTANCE, 0.7) == 5.5
    expected = np.array((0, 0, 1, 0, 0, 1), bool)
    np.testing.assert_array_equal(sta_forget.forget_mask_literal(IMPORTANCE, 0.7), expected)
    np.testing.assert_array_equal(sta_forget.forget_mask_exact(IMPORTANCE, 5), expected)


@pytest.mark.parametrize("forget", [forget_literal, forget_exact])
def test_worked_example(FX, forget):
    result = forget(FX.base, FX.base, FX.finetuned[0], IMPORTANCE, 0.7)
    np.testing.assert_array_equal(result, (1, -2, 0.5, 0, 3, -1.25))


def test_worked_example_with_a_tie():
    values = np.float32((5, 1, 7, 7, 2))
    expected = np.array((0, 0, 1, 1, 0), bool)
    np.testing.assert_array_equal(sta_forget.forget_mask_literal(values, 0.7), expected)
    np.testing.assert_array_equal(
        sta_forget.forget_mask_exact(values, order_statistic_literal(values, rank_exact(0.7, 5))), expected
    )


@pytest.mark.parametrize("forget", [forget_literal, forget_exact])
def test_forgetting_from_a_merged_model(FX, forget):
    target = np.float32((9, 9, 9, 9, 9, 9))
    expected = target - np.float32((0, 0, 0, 0, 0, 0.25))
    np.testing.assert_array_equal(forget(target, FX.base, FX.finetuned[0], IMPORTANCE, 0.7), expected)


@pytest.mark.parametrize(("p", "n_kept"), [(0, 5), (0.3, 4), (0.7, 2), (0.9, 1), (1, 0)])
def test_how_much_is_subtracted(p, n_kept):
    threshold = order_statistic_literal(IMPORTANCE, rank_exact(p, 6))
    assert sta_forget.forget_mask_exact(IMPORTANCE, threshold).sum() == n_kept
    assert sta_forget.forget_mask_literal(IMPORTANCE, p).sum() == n_kept


@pytest.mark.parametrize("importance", [np.float32([3]), np.full(7, 3, np.float32)])
def test_a_constant_tensor_is_left_alone(importance):
    base = np.zeros_like(importance)
    for forget in (forget_literal, forget_exact):
        np.testing.assert_array_equal(forget(base, base, base + 1, importance, 0), base)


def test_a_nan_is_never_subtracted():
    importance = np.float32((np.nan, 1, 2, np.nan))
    np.testing.assert_array_equal(sta_forget.forget_mask_exact(importance, 1), [False, False, True, False])
    assert not sta_forget.forget_mask_exact(importance, np.nan).any()


def test_steps_are_rounded_in_order():
    target, base, finetuned = np.float32([1]), np.float32([0]), np.float32([3])
    weight, lambda_ = 0.1, 0.7
    result = sta_forget.forget_exact(target, base, finetuned, np.array([True]), weight, lambda_)
    step = np.float32(np.float64(np.float32(weight)) * 3)
    step = np.float32(np.float64(np.float32(lambda_)) * np.float64(step))
    assert result[0] == np.float32(1 - np.float64(step))
    literal = sta_forget.forget_literal(target, base, finetuned, np.array([True]), weight, lambda_)
    np.testing.assert_allclose(result, literal, rtol=1e-6)


def test_what_is_not_selected_is_the_target_bit_for_bit():
    target = np.float32([-0.0, -0.0])
    result = sta_forget.forget_exact(target, target, target, np.array([False, True]))
    np.testing.assert_array_equal(np.signbit(result), [True, True])  # −0 − 0 is −0
    merged = sta_forget.forget_exact(target, np.float32([1, 1]), np.float32([1, 1]), np.array([False, True]), -1)
    np.testing.assert_array_equal(np.signbit(merged), [True, False])  # −0 − (−0) is +0
