"""Fisher-weighted averaging: the worked example, the two epsilons, the information itself."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.reference.literal import fisher

FISHERS = np.array(((1, 0, 2, 4, 1, 1), (3, 0, 2, 0, 1, 2), (0, 0, 4, 4, 2, 1)))


PLAIN = (0.9375, -2.125, 0.40625, 0, 3, -0.875)
NORMALISED = (0.920798, -2.183578, 0.431778, 0.044362, 3.026378, -0.910694)


@pytest.mark.parametrize(("normalize", "expected"), [(False, PLAIN), (True, NORMALISED)])
def test_merged(FX, normalize, expected):
    merged = fisher.fisher_literal(FX.finetuned, FISHERS, normalize=normalize, relative=False)
    np.testing.assert_allclose(merged, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("normalize", "expected", "unknown"), [(False, PLAIN, -2.071429), (True, NORMALISED, -2.131932)]
)
def test_a_relative_epsilon_changes_only_what_no_task_knows(FX, normalize, expected, unknown):
    merged = fisher.fisher_literal(FX.finetuned, FISHERS, normalize=normalize)
    expected = (expected[0], unknown, *expected[2:])
    np.testing.assert_allclose(merged, expected, atol=1e-5)


def test_where_nothing_is_known_epsilon_decides(FX):
    absolute = fisher.fisher_literal(FX.finetuned, FISHERS, relative=False)
    np.testing.assert_allclose(absolute[1], FX.finetuned[:, 1].mean(), rtol=1e-15)
    relative = fisher.fisher_literal(FX.finetuned, FISHERS)
    np.testing.assert_allclose(relative[1], np.average(FX.finetuned[:, 1], weights=FISHERS.sum(axis=1)), rtol=1e-15)


def test_small_information_is_swamped_by_an_absolute_epsilon_only(FX):
    small = 1e-12 * FISHERS
    np.testing.assert_allclose(
        fisher.fisher_literal(FX.finetuned, small), fisher.fisher_literal(FX.finetuned, FISHERS), rtol=1e-12, atol=1e-15
    )
    swamped = fisher.fisher_literal(FX.finetuned, small, relative=False)
    np.testing.assert_allclose(swamped, FX.finetuned.mean(axis=0), atol=1e-5)


def test_equal_information_is_the_weighted_average(FX):
    merged = fisher.fisher_literal(FX.finetuned, np.full((3, 6), 0.25), (1, 2, 1))
    np.testing.assert_allclose(merged, np.average(FX.finetuned, axis=0, weights=(1, 2, 1)), rtol=1e-15)


def test_a_normalised_task_may_be_of_any_scale(FX):
    expected = fisher.fisher_literal(FX.finetuned, FISHERS, normalize=True)
    scaled = fisher.fisher_literal(FX.finetuned, FISHERS * np.array(((4,), (1,), (0.125,))), normalize=True)
    np.testing.assert_allclose(scaled, expected, rtol=1e-13)


@pytest.mark.parametrize("normalize", [True, False])
def test_no_information_at_all_is_the_average(FX, normalize):
    merged = fisher.fisher_literal(FX.finetuned, np.zeros((3, 6)), (1, 0, 1), normalize)
    np.testing.assert_array_equal(merged, FX.finetuned[[0, 2]].mean(axis=0))


def test_information_is_squared_per_sample_and_class():
    probabilities = np.array(((0.25, 0.75), (0.5, 0.5)))
    gradients = np.array((((3.0, 1), (-1.0, 0)), ((1.0, 2), (-1.0, -2))))
    np.testing.assert_array_equal(fisher.fisher_estimate_literal(probabilities, gradients), (2, 2.125))


def test_the_order_of_the_tasks_does_not_matter():
    rng = np.random.default_rng(1)
    models, fishers = rng.normal(size=(4, 20, 30)), rng.random((4, 20, 30))
    order = [2, 0, 3, 1]
    expected = fisher.fisher_literal(models, fishers, (1, 2, 3, 4), True)
    merged = fisher.fisher_literal(models[order], fishers[order], (3, 1, 4, 2), True)
    np.testing.assert_allclose(merged, expected, rtol=1e-11)
