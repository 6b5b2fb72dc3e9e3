"""TATR: the worked example, exact; strictness; the zero-shot form."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.reference.literal import tatr

GRADIENTS = np.array(((1, 2, 1, 2, 1, 1), (2, 1, 1, 1, 3, 1), (1, 1, 4, 1, 1, 2))) / 4
OMEGA = np.array((19, 26, 9, 24, 36, 17)) / 32


def test_sensitivity(FX):
    np.testing.assert_array_equal(tatr.sensitivity_literal(FX.taus, GRADIENTS), OMEGA)
    np.testing.assert_array_equal(tatr.sensitivity_literal(-FX.taus, -GRADIENTS), OMEGA)


def test_it_is_the_products_of_the_sums_less_the_diagonal(FX):
    sizes = np.abs(FX.taus)
    expected = sizes.sum(axis=0) * GRADIENTS.sum(axis=0) - (sizes * GRADIENTS).sum(axis=0)
    np.testing.assert_array_equal(tatr.sensitivity_literal(FX.taus, GRADIENTS), expected)


def test_trust_region():
    np.testing.assert_array_equal(tatr.trust_region_literal(OMEGA, 0.75), np.array((1, 0, 1, 1, 0, 1), bool))


def test_merged(FX):
    merged = tatr.tatr_literal(FX.base, FX.finetuned, GRADIENTS, 0.3, 0.75)
    np.testing.assert_allclose(merged, (1.1125, -2, 0.4625, 0.1125, 3, -0.8125), rtol=1e-15)


def test_zero_shot(FX):
    np.testing.assert_array_equal(tatr.sensitivity_literal(FX.taus), tatr.sensitivity_literal(FX.taus, np.abs(FX.taus)))
    omega = 64 * tatr.sensitivity_literal(FX.taus)
    np.testing.assert_array_equal(omega, 2 * np.array((14, 23, 2, 27, 36, 14)))
    merged = tatr.tatr_literal(FX.base, FX.finetuned, lambda_=1, quantile=0.5)
    np.testing.assert_array_equal(merged, FX.base + np.where((1, 0, 1, 0, 0, 1), FX.taus.sum(axis=0), 0))


@pytest.mark.parametrize(("quantile", "kept"), [(0, 0), (0.7, 700), (0.99, 990), (0.999, 999), (1, 999)])
def test_entries_within_the_region(quantile, kept):
    omega = np.random.default_rng(0).permutation(np.arange(1000.0))
    region = tatr.trust_region_literal(omega.reshape(10, 100), quantile).ravel()
    np.testing.assert_array_equal(region, omega < kept)


def test_one_task_disturbs_nobody_and_is_below_nothing(FX):
    np.testing.assert_array_equal(tatr.tatr_literal(FX.base, FX.finetuned[:1], GRADIENTS[:1]), FX.base)


def test_the_order_of_the_tasks_does_not_matter():
    rng = np.random.default_rng(1)
    base, models, slopes = (rng.integers(-64, 65, shape) / 64 for shape in (500, (4, 500), (4, 500)))
    order = [2, 0, 3, 1]
    expected = tatr.tatr_literal(base, models, slopes, 0.5, 0.8)
    np.testing.assert_array_equal(tatr.tatr_literal(base, models[order], slopes[order], 0.5, 0.8), expected)
