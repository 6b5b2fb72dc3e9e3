"""SCE: the worked example, the selection, when weights are uniform."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.reference.literal import sce


def test_merged(FX):
    merged = sce.sce_literal(FX.base, FX.finetuned, 0.5)
    np.testing.assert_allclose(merged, (1, -2.426724, 0.5, 0.375, 3.75, -1), rtol=1e-6)


def test_selected(FX):
    np.testing.assert_array_equal(sce.select_literal(np.float64(FX.taus), 0.5), np.array((0, 1, 0, 1, 1, 0), bool))


def test_the_share_is_of_what_varies():
    tau = np.array(((1.0, 2, 3, 4, 5, 6), (1, 2, 3, 0, 0, 6)))
    np.testing.assert_array_equal(sce.select_literal(tau, 0.5), np.arange(6) == 4)
    np.testing.assert_array_equal(sce.select_literal(tau, 0.4), np.zeros(6, bool))
    np.testing.assert_array_equal(sce.select_literal(tau, 1), np.ones(6, bool))
    np.testing.assert_array_equal(sce.select_literal(tau, -1), np.zeros(6, bool))


def test_the_lowest_index_is_selected_among_equals():
    tau = np.array(((0.0, 1, 1, 1), (0, -1, -1, -1)))
    np.testing.assert_array_equal(sce.select_literal(tau, "2/3"), (False, True, True, False))


@pytest.mark.parametrize("scale", [2.0**-20, 1.0, 2.0**10])
def test_the_result_scales_with_the_task_vectors(FX, scale):
    expected = scale * sce.sce_literal(np.zeros(6), FX.taus, 0.5)
    np.testing.assert_allclose(sce.sce_literal(np.zeros(6), scale * FX.taus, 0.5), expected, rtol=1e-14)


def test_an_absolute_epsilon_makes_small_differences_uniform(FX):
    small = sce.sce_literal(np.zeros(6), 1e-4 * FX.taus, 0.5, absolute=True)
    np.testing.assert_allclose(8e4 * small, (0, (-1 - 5) / 2, 0, 3, 6, 0), rtol=1e-6)
    large = sce.sce_literal(np.zeros(6), FX.taus, 0.5, absolute=True)
    np.testing.assert_array_equal(large, sce.sce_literal(np.zeros(6), FX.taus, 0.5))


def test_weights_are_uniform_where_next_to_no_energy_is_selected():
    tau = np.array(((1e3, 1e-2, 1e-2), (1e3, 1e-2, 3e-2)))
    np.testing.assert_allclose(sce.sce_literal(np.zeros(3), tau, 1)[1:], (0.01, 0.02), rtol=1e-6)
    np.testing.assert_allclose(sce.sce_literal(np.zeros(3), tau, 1 - 1e-9), 0)  # one varies: no entry of it
    tau[1, 1] = 1.5e-2
    np.testing.assert_allclose(sce.sce_literal(np.zeros(3), tau, 0.5), (0, 0, 0.02), rtol=1e-14)
    by_energy = (1e-2 * 1 + 3e-2 * 9) / 10
    np.testing.assert_allclose(sce.sce_literal(np.zeros(3), tau * (1e-4, 1, 1), 0.5), (0, 0, by_energy), rtol=1e-12)


@pytest.mark.parametrize("absolute", [False, True])
def test_a_zero_sum_counts_as_plus(absolute):
    merged = sce.sce_literal(np.zeros(2), np.array(((1.0, 0), (-1.0, 0))), absolute=absolute)
    np.testing.assert_array_equal(merged, (1, 0))


def test_one_task_does_not_vary(FX):
    np.testing.assert_array_equal(sce.sce_literal(FX.base, FX.finetuned[:1], 0.5), FX.base)
    np.testing.assert_array_equal(sce.sce_literal(FX.base, FX.finetuned[:1]), FX.finetuned[0])
    np.testing.assert_array_equal(sce.sce_literal(FX.base, FX.base[None]), FX.base)


def test_the_order_of_the_tasks_does_not_matter():
    rng = np.random.default_rng(1)
    base, models = rng.normal(size=500), rng.normal(size=(4, 500))
    expected = sce.sce_literal(base, models, 0.3)
    np.testing.assert_allclose(sce.sce_literal(base, models[[2, 0, 3, 1]], 0.3), expected, rtol=1e-12)
