"""DELLA with given draws: probabilities by rank, what survives, the rescalings."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.reference.literal import della

DRAWS = np.array(((0.1, 0.9, 0.1, 0.9, 0.1, 0.9), (0.9, 0.1, 0.9, 0.1, 0.9, 0.1), (0.1, 0.1, 0.1, 0.1, 0.9, 0.9)))


def test_probabilities(FX):
    probabilities = della.keep_probabilities_literal(FX.taus[0], 0.5, 0.1)
    np.testing.assert_allclose(probabilities, (0.56, 0.44, 0.4, 0.52, 0.6, 0.48), rtol=1e-15)


def test_every_row_has_its_ranks(FX):
    expected = [della.keep_probabilities_literal(tau, 0.5, 0.1) for tau in FX.taus]
    np.testing.assert_array_equal(della.keep_probabilities_literal(FX.taus, 0.5, 0.1), expected)
    kernel = della.keep_probabilities_literal(FX.taus.reshape(3, 1, 2, 3), 0.5, 0.1)
    np.testing.assert_array_equal(kernel, np.reshape(expected, (3, 1, 2, 3)))


def test_the_lowest_index_is_the_greatest_among_equals():
    probabilities = della.keep_probabilities_literal(np.array((1.0, -1, 0, 0, -1)), 0.5, 0.25)
    np.testing.assert_array_equal(probabilities, (0.75, 0.625, 0.375, 0.25, 0.5))


@pytest.mark.parametrize("tau", [np.ones(1), np.ones((4, 1)), np.ones((4, 1, 1, 1))])
def test_a_row_of_one_entry_has_the_mean(tau):
    np.testing.assert_array_equal(della.keep_probabilities_literal(tau, 0.4), np.full(tau.shape, 0.4))


@pytest.mark.parametrize(("density", "expected"), [(1, 1), (1.5, 1), (0, 0), (-0.1, 0)])
def test_all_or_nothing(FX, density, expected):
    np.testing.assert_array_equal(della.keep_probabilities_literal(FX.taus[0], density), np.full(6, expected))


@pytest.mark.parametrize("density", [0.1, 0.15, 0.85, 0.9])
def test_probabilities_that_are_none_are_refused(FX, density):
    with pytest.raises(ValueError, match="epsilon"):
        della.keep_probabilities_literal(FX.taus[0], density)


def test_survivors_are_divided_by_their_probability(FX):
    merged = della.della_literal(
        FX.base, FX.finetuned, DRAWS, 0.5, 0.1, normalize=False, rescale="probability", elect=False
    )
    survivors = np.array(((4, 0, 0, 0, -6, 0), (0, -5, 0, 3, 0, -1), (1, 3, -2, -3, 0, 0))) / 8
    q = np.stack([della.keep_probabilities_literal(tau, 0.5, 0.1) for tau in FX.taus])
    np.testing.assert_allclose(merged, FX.base + (survivors / q).sum(axis=0), rtol=1e-15)


def test_election(FX):
    merged = della.della_literal(FX.base, FX.finetuned, DRAWS, 0.5, 0.1, (1, 2, 1), rescale="none")
    np.testing.assert_array_equal(8 * (merged - FX.base), (2.5, -5, -2, 3, -6, -1))
    merged = della.della_literal(FX.base, FX.finetuned, DRAWS, 0.5, 0.1, (1, 2, 1), 0.5, False, "none")
    np.testing.assert_array_equal(16 * (merged - FX.base), (5, -10, -2, 6, -6, -2))


def test_the_norm_is_restored(FX):
    merged = della.della_literal(FX.base, FX.finetuned[:1], DRAWS[:1], 0.5, 0.1)
    np.testing.assert_allclose(8 * (merged - FX.base), np.array((4, 0, 0, 0, -6, 0)) * 16 / 10, rtol=1e-15)
    draws = np.ones((1, 6))
    np.testing.assert_array_equal(della.della_literal(FX.base, FX.finetuned[:1], draws, 0.5, 0.1), FX.base)


def test_an_unknown_rescaling_is_refused(FX):
    with pytest.raises(ValueError, match="rescale 'q'"):
        della.della_literal(FX.base, FX.finetuned, DRAWS, rescale="q")
