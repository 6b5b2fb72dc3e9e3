"""AdaMerging: the worked example, and the gradient of the whole objective against finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.reference.literal import adamerging


def test_combined(FX):
    (merged,) = adamerging.combine_tensors_literal([FX.base], [FX.finetuned], (0.3, 1.4, -0.2))
    np.testing.assert_allclose(merged, (0.9, -2.6625, 0.625, 0.4875, 3.525, -1.05), rtol=1e-15)


def test_unclamped(FX):
    (merged,) = adamerging.combine_tensors_literal([FX.base], [FX.finetuned], (0.5, 1.5, -0.5), clamp=False)
    np.testing.assert_array_equal(merged, FX.base + (FX.taus[0] + 3 * FX.taus[1] - FX.taus[2]) / 2)


def test_entropy():
    np.testing.assert_allclose(adamerging.entropy_literal(((1, 0), (2, 0))), (0.582203, 0.365334), rtol=1e-6)
    np.testing.assert_allclose(adamerging.entropy_literal(np.full(8, 1000.0)), np.log(8))
    np.testing.assert_allclose(adamerging.loss_literal([((1, 0), (2, 0)), ((1, 0),)]), 1.5 * 0.582203 + 0.182667, 1e-6)


def test_certainty_has_no_entropy():
    np.testing.assert_array_equal(adamerging.entropy_literal((0.0, -1e4)), 0)


def test_coefficients_per_tensor(FX):
    lambdas = np.array(((1, 0), (0, 0.5), (0, 0)))
    base, models = (FX.base[:4], FX.base[4:]), (FX.finetuned[:, :4], FX.finetuned[:, 4:])
    first, second = adamerging.combine_tensors_literal(base, models, lambdas)
    np.testing.assert_array_equal(first, FX.finetuned[0, :4])
    np.testing.assert_array_equal(second, FX.base[4:] + FX.taus[1, 4:] / 2)


@pytest.mark.parametrize("layerwise", [True, False])
def test_gradient_of_a_linear_classifier(layerwise):
    rng = np.random.default_rng(0)
    base = [rng.normal(size=(4, 5)), rng.normal(size=4)]
    models = [rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 4))]
    inputs = [rng.normal(size=(6, 5)), rng.normal(size=(3, 5))]
    lambdas = rng.uniform(0.2, 0.8, (3, 2) if layerwise else 3)

    def logits_of(at):
        weight, bias = adamerging.combine_tensors_literal(base, models, at)
        return [x @ weight.T + bias for x in inputs]

    by_weight, by_bias = np.zeros((4, 5)), np.zeros(4)
    for x, logits in zip(inputs, logits_of(lambdas), strict=True):
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        by_logit = -p * (np.log(p) + adamerging.entropy_literal(logits)[:, None]) / len(x)
        by_weight += by_logit.T @ x
        by_bias += by_logit.sum(axis=0)
    gradient = adamerging.gradient_literal(base, models, lambdas, [by_weight, by_bias])
    assert gradient.shape == lambdas.shape
    for index in np.ndindex(lambdas.shape):
        step = np.zeros_like(lambdas)
        step[index] = 1e-5
        difference = adamerging.loss_literal(logits_of(lambdas + step)) - adamerging.loss_literal(
            logits_of(lambdas - step)
        )
        np.testing.assert_allclose(gradient[index], difference / 2e-5, rtol=1e-6, atol=1e-9)


def test_no_gradient_beyond_the_bounds(FX):
    gradient = np.arange(1.0, 7)
    products = FX.taus @ gradient
    arguments = ([FX.base], [FX.finetuned])
    clamped = adamerging.gradient_literal(*arguments, (1.0, 1.25, -0.25), [gradient])
    np.testing.assert_array_equal(clamped, (products[0], 0, 0))
    free = adamerging.gradient_literal(*arguments, (1.0, 1.25, -0.25), [gradient], clamp=False)
    np.testing.assert_array_equal(free, products)
