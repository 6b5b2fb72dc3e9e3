"""Model Stock: as far as the task vectors agree, by tensor and by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from merged_arrays import drawn, merged, same_on_all

from sta_kernels import methods
from sta_kernels.errors import InputError
from sta_kernels.kernels.reference.literal.model_stock import model_stock_literal
from sta_kernels.methods.base import Place

TAUS = np.array(((1.0, 0, 1, 0), (1, 1, 0, 0)))


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-12])
def test_two_thirds_whatever_the_size(scale: float):
    """METHODS §13: mergekit's floor makes t = .0198 of the task vectors times 1e-4."""
    base = np.zeros(4)
    got = same_on_all("model_stock", base, scale * TAUS)
    np.testing.assert_allclose(got, scale * TAUS.mean(axis=0) * 2 / 3, rtol=3e-7)


def test_task_vectors_that_disagree_leave_the_base(FX: Any):
    """Unclamped, t = −3.39."""
    np.testing.assert_array_equal(same_on_all("model_stock", FX.base, FX.finetuned), FX.base)


def test_the_pole_is_out_of_reach():
    base = drawn(50)
    tau = drawn(50, seed=1)
    np.testing.assert_array_equal(same_on_all("model_stock", base, [base + tau, base - tau]), np.float32(base))


def test_equal_models_give_that_model():
    base, model = drawn(40), drawn(40, seed=1)
    np.testing.assert_allclose(same_on_all("model_stock", base, [model] * 3), model, rtol=1e-6, atol=1e-6)


def test_a_task_vector_of_zeros_is_orthogonal():
    base, taus = drawn(6), np.zeros((3, 6))
    taus[0, 0] = taus[1, 0] = 1.0  # cosines 1, 0, 0
    got = same_on_all("model_stock", base, base + taus)
    np.testing.assert_allclose(got, base + 3 * (1 / 3) / (1 + 2 / 3) * taus.mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(same_on_all("model_stock", base, [base] * 2), np.float32(base))


@pytest.mark.parametrize("filter_wise", [False, True])
@pytest.mark.parametrize("shape", [(100_000,), (250, 400), (7, 5, 3, 11), (1, 9), (9, 1), ()])
def test_the_oracle_agrees(shape: tuple[int, ...], filter_wise: bool):
    base, common = drawn(*shape), drawn(*shape, seed=1, scale=1e-2)
    taus = common + drawn(4, *shape, seed=2, scale=1e-2)
    models = (base + taus).astype(np.float32).astype(np.float64)
    want = model_stock_literal(base, models, filter_wise=filter_wise)
    got = same_on_all("model_stock", base, models, filter_wise=filter_wise)
    assert np.abs(got - want).max() <= 2e-7 * np.abs(base).max()
    if base.size > 100:
        assert np.abs(want - base).max() > 1e-3


def test_by_row_no_row_sees_another():
    base, models = drawn(6, 70), drawn(3, 6, 70, seed=1)
    got = merged("model_stock", base, models, filter_wise=True)
    for row in range(6):
        alone = merged("model_stock", base[row], models[:, row], filter_wise=True)
        np.testing.assert_array_equal(got[row], alone)


def test_an_empty_tensor_stays_empty():
    for filter_wise in (False, True):
        assert merged("model_stock", np.zeros((0, 4)), np.zeros((2, 0, 4)), filter_wise=filter_wise).shape == (0, 4)


def test_it_takes_two_models_and_a_base():
    method = methods.get("model_stock")
    with pytest.raises(InputError, match="1 models given, it takes 2 or more"):
        methods.resolve(method, 1)
    assert method.roles(methods.resolve(method, 2)).base


def test_only_rows_need_a_tensor_in_one_piece():
    method = methods.get("model_stock")
    for wise in (False, True):
        settings = methods.resolve(method, 2, filter_wise=wise)
        assert method.in_one_piece(settings, Place.alone((3, 4)), False) is wise
        assert bool(method.statistics(settings, 2, Place.alone((3, 4)), ())) is not wise
