"""The Karcher mean: by Gram matrix as by vectors."""

from __future__ import annotations

import numpy as np
import pytest
from merged_arrays import drawn, same_on_all

from sta_kernels import methods
from sta_kernels.kernels.reference.literal.slerp import karcher_literal


def test_worked_example():
    got = same_on_all("karcher", None, np.array(((1.0, 0), (0, 2))))
    np.testing.assert_allclose(got, (1.06066, 1.06066), rtol=1e-5)


@pytest.mark.parametrize("n_models", [2, 3, 5])
@pytest.mark.parametrize("alike", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("values", [{}, {"max_iter": 0}, {"max_iter": 2, "tol": 1e-3}], ids=str)
def test_the_oracle_agrees(n_models: int, alike: float, values: dict[str, float]):
    scales = np.linspace(0.5, 2, n_models)[:, None]
    models = scales * (alike * drawn(100_000, seed=1) + drawn(n_models, 100_000, seed=2))
    models = models.astype(np.float32).astype(np.float64)
    want = karcher_literal(models, **values)
    got = same_on_all("karcher", None, models, **values)
    assert np.abs(got - want).max() <= 1e-6 * np.abs(want).max()


def test_an_iteration_moves_the_mean():
    """Three directions that are not spread evenly: their normalised mean is not their centre."""
    models = np.array(((1.0, 0, 0), (0.9, 0.1, 0), (0, 0, 1)))
    start, end = (same_on_all("karcher", None, models, max_iter=steps) for steps in (0, 10))
    assert np.abs(start - end).max() > 1e-2
    np.testing.assert_allclose(end, karcher_literal(np.float32(models)), rtol=1e-5, atol=1e-6)


def test_one_model_is_itself():
    model = drawn(20)
    np.testing.assert_array_equal(same_on_all("karcher", None, [model]), np.float32(model))


def test_a_model_without_length_counts_in_the_norm_alone():
    model = drawn(20)
    np.testing.assert_allclose(same_on_all("karcher", None, [np.zeros(20), model]), model / 2, rtol=1e-6)
    np.testing.assert_array_equal(same_on_all("karcher", None, np.zeros((3, 20))), 0)


def test_opposites_stay_at_the_first():
    model = drawn(20)
    np.testing.assert_allclose(same_on_all("karcher", None, [model, -model]), model, rtol=1e-6)


def test_the_base_is_a_model_like_any_other():
    method = methods.get("karcher")
    assert method.base_is_model
    assert not method.roles(methods.resolve(method, 3)).base
