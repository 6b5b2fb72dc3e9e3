"""Model Stock: the worked examples, angles that are none, poles."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.reference.literal import model_stock

TAU = np.array(((1.0, 0, 1, 0), (1, 1, 0, 0)))


def test_two_thirds():
    merged = model_stock.model_stock_literal(np.ones(4), 1 + TAU)
    np.testing.assert_allclose(merged, 1 + 2 / 3 * TAU.mean(axis=0), rtol=1e-15)


def test_mergekits_floor_shrinks_small_task_vectors():
    tau = 1e-4 * TAU
    np.testing.assert_allclose(model_stock.model_stock_literal(np.zeros(4), tau), 2 / 3 * tau.mean(axis=0))
    merged = model_stock.model_stock_literal(np.zeros(4), tau, floor=1e-6)
    np.testing.assert_allclose(merged, 0.0198 * tau.mean(axis=0), rtol=1e-3)


def test_a_negative_cosine_stays_at_the_base(FX):
    cosine = model_stock.cosine_literal(np.float64(FX.taus))
    assert cosine < 0
    np.testing.assert_allclose(model_stock.ratio_literal(cosine, 3, clamp=False), -3.39, atol=5e-3)
    np.testing.assert_array_equal(model_stock.model_stock_literal(FX.base, FX.finetuned), FX.base)
    merged = model_stock.model_stock_literal(FX.base, FX.finetuned, clamp=False)
    np.testing.assert_allclose(merged, FX.base - 3.39 * FX.taus.mean(axis=0), atol=5e-3)


@pytest.mark.parametrize(("n_tasks", "cosine"), [(2, -1.0), (3, -0.5), (5, -0.25)])
def test_the_pole_stays_at_the_base(n_tasks, cosine):
    assert model_stock.ratio_literal(cosine, n_tasks, clamp=False) == 0
    assert model_stock.ratio_literal(cosine - 1e-3, n_tasks, clamp=False) > 50


@pytest.mark.parametrize("n_tasks", [2, 3, 8])
def test_full_agreement_is_the_average(n_tasks):
    assert model_stock.ratio_literal(1.0, n_tasks) == 1
    assert model_stock.ratio_literal(1 + 1e-15, n_tasks) == 1
    assert model_stock.ratio_literal(0.0, n_tasks) == 0


def test_no_norm_has_no_angle():
    assert model_stock.cosine_literal(np.array(((0.0, 0), (1, 2)))) == 0
    assert model_stock.cosine_literal(np.array(((0.0, 0), (1, 2), (2, 4)))) == pytest.approx(1 / 3)


def test_filter_wise_is_row_by_row():
    rng = np.random.default_rng(0)
    base, models = rng.normal(size=(2, 3, 4)), 3 + rng.normal(size=(3, 2, 3, 4))
    merged = model_stock.model_stock_literal(base, models, filter_wise=True)
    for index in np.ndindex(2, 3):
        expected = model_stock.model_stock_literal(base[index], models[(slice(None), *index)])
        np.testing.assert_allclose(merged[index], expected, rtol=1e-14)
    assert not np.allclose(merged, model_stock.model_stock_literal(base, models))


def test_a_vector_is_one_row():
    merged = model_stock.model_stock_literal(np.zeros(4), TAU, filter_wise=True)
    np.testing.assert_array_equal(merged, model_stock.model_stock_literal(np.zeros(4), TAU))


def test_one_task_is_refused(FX):
    with pytest.raises(ValueError, match="1 task"):
        model_stock.model_stock_literal(FX.base, FX.finetuned[:1])


def test_the_order_of_the_tasks_does_not_matter():
    rng = np.random.default_rng(1)
    base, models = rng.normal(size=500), 1 + rng.normal(size=(4, 500))
    expected = model_stock.model_stock_literal(base, models)
    np.testing.assert_allclose(model_stock.model_stock_literal(base, models[[2, 0, 3, 1]]), expected, rtol=1e-13)
