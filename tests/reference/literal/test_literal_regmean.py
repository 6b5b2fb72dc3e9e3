"""RegMean: the worked example, the least squares that it solves, inputs that no task uses."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.reference.literal import regmean

LAYERS = np.array((((1, 0), (0, 1)), ((3, 2), (0, 1))))
GRAMS = np.array((((2, 1), (1, 2)), ((1, 0), (0, 3))))


@pytest.mark.parametrize(("ratio", "expected"), [(1, ((1.285714, 1.142857), (0, 1))), (0, ((1.666667, 1.2), (0, 1)))])
def test_merged(ratio, expected):
    np.testing.assert_allclose(regmean.regmean_literal(LAYERS, GRAMS, ratio), expected, rtol=1e-6, atol=1e-15)


def test_gram():
    inputs = np.array(((1, 2), (3, -4), (0, 1), (0, 1)))
    np.testing.assert_array_equal(regmean.gram_literal(inputs), ((2.5, -2.5), (-2.5, 5.5)))
    np.testing.assert_array_equal(regmean.off_diagonal_literal(GRAMS, 0.5), (((2, 0.5), (0.5, 2)), ((1, 0), (0, 3))))


def test_it_answers_least_squares():
    rng = np.random.default_rng(0)
    inputs, layers = rng.normal(size=(3, 50, 6)), rng.normal(size=(3, 4, 6))
    merged = regmean.regmean_literal(layers, [regmean.gram_literal(x) for x in inputs])
    answers = np.concatenate([x @ layer.T for x, layer in zip(inputs, layers, strict=True)])
    expected = np.linalg.lstsq(np.concatenate(inputs), answers, rcond=None)[0].T
    np.testing.assert_allclose(merged, expected, rtol=1e-10)


def test_equal_grams_average():
    gram = regmean.gram_literal(np.random.default_rng(1).normal(size=(20, 5)))
    layers = np.random.default_rng(2).normal(size=(3, 4, 5))
    merged = regmean.regmean_literal(layers, np.stack([gram] * 3), 0.9, (1, 2, 1))
    np.testing.assert_allclose(merged, np.average(layers, axis=0, weights=(1, 2, 1)), rtol=1e-12)


def test_an_input_that_no_task_uses_needs_a_jitter():
    grams = np.zeros((2, 3, 3))
    grams[:, :2, :2] = GRAMS
    layers = np.concatenate((LAYERS, np.array((((4,), (2,)), ((6,), (0,))))), axis=2)
    with pytest.raises(np.linalg.LinAlgError):
        regmean.regmean_literal(layers, grams)
    merged = regmean.regmean_literal(layers, grams, jitter=1e-9)
    np.testing.assert_allclose(merged, ((1.285714, 1.142857, 5), (0, 1, 1)), rtol=1e-6, atol=1e-9)


def test_the_order_of_the_tasks_does_not_matter():
    rng = np.random.default_rng(3)
    layers = rng.normal(size=(4, 7, 5))
    grams = np.stack([regmean.gram_literal(rng.normal(size=(30, 5))) for _ in range(4)])
    order = [2, 0, 3, 1]
    expected = regmean.regmean_literal(layers, grams, 0.9)
    np.testing.assert_allclose(regmean.regmean_literal(layers[order], grams[order], 0.9), expected, rtol=1e-11)
