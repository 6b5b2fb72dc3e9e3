"""Task singular vectors: the worked example, what is retained, what is restored."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from sta_kernels.kernels.reference.literal import tsv

TASKS = np.array((((3, 0), (0, 1)), ((1, 1), (1, 1))))


def test_merged_matrix():
    expected = ((2.853553, -0.353553), (-0.353553, 2.146447))
    np.testing.assert_allclose(tsv.tsv_m_literal(np.zeros((2, 2)), TASKS), expected, atol=5e-7)


def test_alpha_scales_what_is_added_to_the_base():
    expected = 1 + 0.5 * tsv.tsv_m_literal(np.zeros((2, 2)), TASKS)
    np.testing.assert_allclose(tsv.tsv_m_literal(np.ones((2, 2)), 1 + TASKS, 0.5), expected, rtol=1e-14)


def test_biases_are_averaged():
    np.testing.assert_array_equal(tsv.tsv_mean_literal(np.ones(2), ((2, 3), (4, 7))), (3, 5))
    np.testing.assert_array_equal(tsv.tsv_mean_literal(np.zeros(2), ((1, 2), (3, 6)), 2), (4, 8))


def test_a_matrix_of_rank_one_is_restored():
    factors = tsv.tsv_c_compress_literal(np.zeros((2, 2)), TASKS[1], 0.5)
    assert [factor.shape for factor in factors] == [(2, 1), (1,), (1, 2)]
    np.testing.assert_allclose(tsv.tsv_c_decompress_literal(np.zeros((2, 2)), *factors), TASKS[1], rtol=1e-14)
    half = tsv.tsv_c_decompress_literal(np.ones((2, 2)), *factors, 0.5)
    np.testing.assert_allclose(half, 1 + TASKS[1] / 2, rtol=1e-14)


@pytest.mark.parametrize("shape", [(9, 20), (20, 9)])
@pytest.mark.parametrize(("ratio", "k"), [("1/3", 3), (Fraction(1, 3), 3), (0.29, 2), (1, 9), (0.1, 0)])
def test_restoring_is_the_best_of_its_rank(shape, ratio, k):
    rng = np.random.default_rng(0)
    base, tau = rng.normal(size=shape), rng.normal(size=shape)
    factors = tsv.tsv_c_compress_literal(base, base + tau, ratio)
    error = tsv.tsv_c_decompress_literal(base, *factors) - base - tau
    lost = np.linalg.svd(tau, compute_uv=False)[k:]
    np.testing.assert_allclose(np.sum(error**2), np.sum(lost**2), rtol=1e-12, atol=1e-24)


def test_one_task_is_itself():
    rng = np.random.default_rng(1)
    base, models = rng.normal(size=(5, 7)), rng.normal(size=(1, 5, 7))
    np.testing.assert_allclose(tsv.tsv_m_literal(base, models), models[0], atol=1e-13)


def test_orthogonal_tasks_add_up():
    tau = np.zeros((2, 4, 4))
    tau[0, :2, :2], tau[1, 2:, 2:] = ((2, 1), (0, 1)), ((5, 0), (1, 3))
    np.testing.assert_allclose(tsv.tsv_m_literal(np.zeros((4, 4)), tau), tau.sum(axis=0), atol=1e-14)


def test_more_tasks_than_rows_retain_nothing():
    base = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(tsv.tsv_m_literal(base, base + np.eye(2, 3)[None].repeat(3, 0)), base)


def test_polar_is_orthonormal():
    for shape in ((6, 4), (4, 6)):
        polar = tsv.polar_literal(np.random.default_rng(2).normal(size=shape))
        gram = polar.T @ polar if shape[0] > shape[1] else polar @ polar.T
        np.testing.assert_allclose(gram, np.eye(4), atol=1e-14)


def test_the_order_of_the_tasks_does_not_matter():
    rng = np.random.default_rng(3)
    base, models = rng.normal(size=(12, 17)), rng.normal(size=(4, 12, 17))
    expected = tsv.tsv_m_literal(base, models)
    np.testing.assert_allclose(tsv.tsv_m_literal(base, models[[2, 0, 3, 1]]), expected, atol=1e-12)
