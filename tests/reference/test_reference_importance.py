"""Importance (eq. 10–12, 21, 22): the worked example, and one rounding per step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sta_kernels.kernels.reference import importance

THETA = np.array((1, -2, 0.5), np.float32)
GRADIENTS = np.array(((0.5, -0.25, 1), (-0.5, 0.75, 1)), np.float32)

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def accumulated(gradients):
    total = np.zeros_like(gradients[0])
    for gradient in gradients:
        total = importance.accumulate_exact(total, gradient)
    return total


def test_worked_example_in_float64():
    np.testing.assert_array_equal(importance.first_order_literal(THETA, GRADIENTS[0]), (0.5, 0.5, 0.5))
    np.testing.assert_array_equal(importance.lp_literal(THETA, GRADIENTS), (1, 2, 1))
    np.testing.assert_array_equal(importance.amp_literal(THETA), (1, 4, 0.25))
    np.testing.assert_array_equal(importance.lp_amp_literal(THETA, GRADIENTS), (1, 8, 0.25))


def test_worked_example_in_float32():
    lp = importance.lp_exact(THETA, accumulated(GRADIENTS))
    assert lp.dtype == np.float32
    np.testing.assert_array_equal(lp, (1, 2, 1))
    np.testing.assert_array_equal(importance.amp_exact(THETA), (1, 4, 0.25))
    np.testing.assert_array_equal(importance.lp_amp_exact(lp, THETA), (1, 8, 0.25))


def test_the_absolute_value_is_per_sample():
    of_the_sum = importance.first_order_literal(THETA, GRADIENTS.sum(axis=0))
    np.testing.assert_array_equal(of_the_sum, (0, 1, 1))
    assert not np.array_equal(of_the_sum, importance.lp_literal(THETA, GRADIENTS))


def test_theta_is_multiplied_once_after_the_sum():
    rng = np.random.default_rng(0)
    theta = rng.standard_normal(4096, np.float32)
    gradients = rng.standard_normal((32, 4096), np.float32)
    lp = importance.lp_exact(theta, accumulated(gradients))
    per_sample = accumulated(theta * gradients)
    assert (lp != per_sample).mean() > 0.5
    np.testing.assert_allclose(lp, importance.lp_literal(theta, gradients), rtol=1e-6)
    np.testing.assert_allclose(per_sample, lp, rtol=1e-6)


@given(st.lists(st.tuples(finite, finite, finite), min_size=1, max_size=8))
def test_one_rounding_per_operation(values):
    """A float64 holds each exact product or sum closely enough that rounding it again is one rounding."""
    theta, total, gradient = np.array(values, np.float32).T

    def rounded(wide):
        return wide.astype(np.float32)

    with np.errstate(all="ignore"):
        wide = np.abs(theta.astype(np.float64))
        expected_sum = rounded(total.astype(np.float64) + np.abs(gradient.astype(np.float64)))
        np.testing.assert_array_equal(importance.accumulate_exact(total, gradient), expected_sum)
        lp, square = rounded(wide * total.astype(np.float64)), rounded(wide * wide)
        np.testing.assert_array_equal(importance.lp_exact(theta, total), lp)
        np.testing.assert_array_equal(importance.amp_exact(theta), square)
        mixed = rounded(lp.astype(np.float64) * square.astype(np.float64))
        np.testing.assert_array_equal(importance.lp_amp_exact(lp, theta), mixed)


def test_measures_by_name():
    lp = np.float32((3, 5, 7))
    np.testing.assert_array_equal(importance.measure_exact("lp", lp, None), lp)
    np.testing.assert_array_equal(importance.measure_exact("amp", None, THETA), (1, 4, 0.25))
    np.testing.assert_array_equal(importance.measure_exact("lp_amp", lp, THETA), (3, 20, 1.75))


@pytest.mark.parametrize(
    ("measure", "lp", "theta"),
    [("lpa", THETA, THETA), ("lp", None, THETA), ("amp", THETA, None), ("lp_amp", THETA, None)],
)
def test_a_measure_without_its_operands_is_refused(measure, lp, theta):
    with pytest.raises(ValueError, match=f"measure '{measure}'"):
        importance.measure_exact(measure, lp, theta)
