"""Averaging, task arithmetic and negation: the worked examples of both forms, and one rounding per step."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.reference import linear


def test_average(FX):
    expected = (1.125, -2.125, 0.458333, 0.125, 3, -0.791667)
    np.testing.assert_allclose(linear.average_literal(FX.finetuned), expected, atol=5e-7)
    result = linear.weighted_sum_exact(None, FX.finetuned, (1, 1, 1), divisor=3)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, linear.average_literal(FX.finetuned).astype(np.float32))


def test_weighted_average(FX):
    expected = (FX.finetuned[0] + 3 * FX.finetuned[2]) / 4
    np.testing.assert_array_equal(linear.average_literal(FX.finetuned, (1, 0, 3)), expected)
    np.testing.assert_array_equal(linear.weighted_sum_exact(None, FX.finetuned, (1, 0, 3), divisor=4), expected)


def test_task_arithmetic(FX):
    expected = (1.15, -2.15, 0.45, 0.15, 3, -0.75)
    np.testing.assert_allclose(linear.task_arithmetic_literal(FX.base, FX.finetuned, 0.4), expected, rtol=1e-15)
    result = linear.weighted_sum_exact(FX.base, FX.finetuned, (1, 1, 1), lambda_=0.4)
    np.testing.assert_allclose(result, expected, rtol=1e-7)


def test_task_arithmetic_is_exact_on_dyadic_values(FX):
    weights = (0.5, 2, -1)
    expected = linear.task_arithmetic_literal(FX.base, FX.finetuned, 0.25, weights)
    np.testing.assert_array_equal(linear.weighted_sum_exact(FX.base, FX.finetuned, weights, 1, 0.25), expected)


def test_negation(FX):
    expected = (0.75, -1.9375, 0.5, -0.1875, 3.375, -1.125)
    np.testing.assert_array_equal(linear.negation_literal(FX.base, FX.finetuned[0], 0.5), expected)
    np.testing.assert_array_equal(linear.weighted_sum_exact(FX.base, FX.finetuned[:1], (1,), lambda_=-0.5), expected)


@pytest.mark.parametrize("divisor", [0.0, -0.0, 1e-60])
def test_a_zero_divisor_counts_as_one(FX, divisor):
    result = linear.weighted_sum_exact(FX.base, FX.finetuned, (1, -1, 0), divisor)
    np.testing.assert_array_equal(result, FX.base + FX.taus[0] - FX.taus[1])


def test_the_sum_is_divided_before_lambda_is_applied():
    result = linear.weighted_sum_exact(None, np.float32([[3e38], [3e38]]), (0.5, 0.5), divisor=4, lambda_=4)
    assert np.isfinite(result).all()


def test_models_are_added_in_order():
    values = np.float32([[1], [2**-24], [2**-24]])
    assert linear.weighted_sum_exact(None, values, (1, 1, 1)) == 1
    assert linear.weighted_sum_exact(None, values[::-1], (1, 1, 1)) == np.float32(1 + 2**-23)


def test_the_sum_starts_at_plus_zero():
    assert not np.signbit(linear.weighted_sum_exact(None, np.float32([[-0.0]]), (1,)))[0]


def test_unequal_lengths_are_refused(FX):
    with pytest.raises(ValueError, match="argument"):
        linear.weighted_sum_exact(FX.base, FX.finetuned, (1, 1))
