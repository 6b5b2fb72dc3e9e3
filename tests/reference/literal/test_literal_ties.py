"""TIES: both scopes on the worked example, exact; counts, ties and zero sums."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.reference.literal import ties

ZERO_MAJORITY = np.array(((1, -1, 2, -2), (-1, 1, 2, -2)))


@pytest.mark.parametrize("trim", [ties.trim_tensor_literal, ties.trim_model_literal])
def test_trimmed(FX, trim):
    expected = ((4, 0, 0, 3, -6, 0), (0, -5, 0, 3, 6, 0), (0, 3, 0, -3, 0, 4))
    if trim is ties.trim_tensor_literal:  # exactly two of six; the threshold's ties all stay in the other
        expected = ((4, 0, 0, 0, -6, 0), (0, -5, 0, 0, 6, 0), (0, 3, 0, 0, 0, 4))
    np.testing.assert_array_equal([8 * trim(np.float64(tau), "1/3") for tau in FX.taus], expected)


def test_model_mean(FX):
    merged = ties.ties_model_literal(FX.base, FX.finetuned, "1/3")
    np.testing.assert_array_equal(merged, (1.5, -2.625, 0.5, 0.375, 3.75, -0.5))
    np.testing.assert_array_equal(merged - FX.base, (0.5, -0.625, 0, 0.375, 0.75, 0.5))


def test_model_sum(FX):
    merged = ties.ties_model_literal(FX.base, FX.finetuned, "1/3", normalize=False)
    np.testing.assert_array_equal(merged - FX.base, (0.5, -0.625, 0, 0.75, 0.75, 0.5))


def test_model_signs(FX):
    trimmed = np.array(((4, 0, 0, 3, -6, 0), (0, -5, 0, 3, 6, 0), (0, 3, 0, -3, 0, 4)))
    np.testing.assert_array_equal(ties.elect_model_literal(trimmed), (1, -1, 1, 1, 1, 1))
    np.testing.assert_array_equal(ties.elect_model_literal(-trimmed), (-1, 1, -1, -1, -1, -1))


@pytest.mark.parametrize(("m0", "expected"), [("none", (0, 0, 2, -2)), ("negative", (-1, -1, 2, -2))])
def test_a_majority_of_zero(m0, expected):
    np.testing.assert_array_equal(ties.ties_model_literal(np.zeros(4), ZERO_MAJORITY, 0.5, m0=m0), expected)


def test_an_unknown_rule_for_a_majority_of_zero_is_refused():
    with pytest.raises(ValueError, match="m0 'positive'"):
        ties.ties_model_literal(np.zeros(4), ZERO_MAJORITY, m0="positive")


def test_a_zero_sum_counts_as_plus_in_a_tensor():
    np.testing.assert_array_equal(ties.ties_tensor_literal(np.zeros(4), ZERO_MAJORITY), (1, 1, 2, -2))


def test_tensor(FX):
    merged = ties.ties_tensor_literal(FX.base, FX.finetuned, "1/3")
    np.testing.assert_array_equal(8 * (merged - FX.base), (4, -5, 0, 0, 6, 4))


def test_keeping_all_trims_nothing(FX):
    for tau in np.float64(FX.taus):
        np.testing.assert_array_equal(ties.trim_model_literal(tau, 1), tau)
        np.testing.assert_array_equal(ties.trim_tensor_literal(tau, 1.0), tau)


@pytest.mark.parametrize(("density", "kept"), [(0.2, 200), (0.0001, 1), (0, 0), (-1, 0), (1.5, 1000), (0.7, 700)])
def test_entries_kept_of_a_tensor(density, kept):
    tau = np.random.default_rng(0).permutation(np.arange(1.0, 1001)).reshape(10, 100)
    trimmed = ties.trim_tensor_literal(tau, density)
    assert np.count_nonzero(trimmed) == kept
    np.testing.assert_array_equal(np.sort(trimmed[trimmed != 0]), np.arange(1001 - kept, 1001))


def test_entries_kept_of_a_model():
    tau = np.random.default_rng(0).permutation(np.arange(1.0, 1001))
    assert np.count_nonzero(ties.trim_model_literal(tau, 0.2)) == 201
    assert np.count_nonzero(ties.trim_model_literal(np.r_[np.ones(300), np.zeros(700)], 0.2)) == 300


def test_the_lowest_index_stays_among_equals_in_a_tensor():
    np.testing.assert_array_equal(ties.trim_tensor_literal(np.array([1.0, -2, 1, -1, 2]), 0.6), (1, -2, 0, 0, 2))
    np.testing.assert_array_equal(ties.trim_model_literal(np.array([1.0, -2, 1, -1, 2]), 0.6), (1, -2, 1, -1, 2))


def test_weights_elect_and_divide():
    base, models = np.zeros(3), np.array(((1.0, 1, 4), (-2.0, -2, 2)))
    merged = ties.ties_tensor_literal(base, models, weights=(3, 1))
    np.testing.assert_array_equal(merged, (1, 1, 14 / 4))
    np.testing.assert_array_equal(ties.ties_tensor_literal(base, models, weights=(3, 1), normalize=False), (3, 3, 14))


def test_a_negative_weight_turns_the_sign():
    merged = ties.ties_tensor_literal(np.zeros(2), np.array(((1.0, -1), (-1.0, 1))), weights=(1, -1))
    np.testing.assert_array_equal(merged, (2, -2))  # the weights that took part sum to 0, which counts as 1


def test_rescaling_restores_the_norm():
    merged = ties.ties_tensor_literal(np.zeros(4), np.array(((1.0, -2, 3, -4),)), 0.5, rescale=True)
    np.testing.assert_allclose(merged, np.array((0, 0, 3, -4)) * 10 / 7, rtol=1e-15)


def test_a_density_per_task_and_lambda(FX):
    merged = ties.ties_tensor_literal(FX.base, FX.finetuned, (1, 0, 0), lambda_=0.5)
    np.testing.assert_array_equal(merged - FX.base, FX.taus[0] / 2)
    merged = ties.ties_model_literal(FX.base, FX.finetuned[:2], (1, "1/6"), lambda_=0.5, normalize=False)
    np.testing.assert_array_equal(16 * (merged - FX.base), (4, -6, 0, 3, 6, 2))


@pytest.mark.parametrize("merge", [ties.ties_tensor_literal, ties.ties_model_literal])
def test_the_order_of_the_tasks_does_not_matter(merge):
    rng = np.random.default_rng(1)
    base, models = rng.integers(-8, 9, 500) / 8, rng.integers(-64, 65, (4, 500)) / 64
    expected = merge(base, models, 0.3)
    np.testing.assert_allclose(merge(base, models[[2, 0, 3, 1]], 0.3), expected, rtol=1e-14, atol=1e-15)
