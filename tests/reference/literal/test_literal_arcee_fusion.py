"""Arcee Fusion: divergence and quartiles by hand, and which entries change."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.reference.literal import arcee_fusion


def test_divergence():
    base, other = np.log(((1.0, 1), (1, 3))), np.log(((3.0, 1), (1, 3)))
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    np.testing.assert_allclose(arcee_fusion.divergence_literal(base, other), ((expected,), (0,)), atol=1e-7)
    np.testing.assert_allclose(arcee_fusion.divergence_literal(base + 1000, other), ((expected,), (0,)), atol=1e-7)


@pytest.mark.parametrize(("n", "expected"), [(1, (0, 0, 0)), (4, (0, 1, 2)), (5, (1, 2, 3)), (102, (25, 50, 75))])
def test_quartiles_are_values(n, expected):
    values = np.random.default_rng(0).permutation(np.arange(float(n)))
    assert tuple(arcee_fusion.quartile_literal(values, q) for q in (0.25, 0.5, 0.75)) == expected


def test_what_changed_most_is_taken():
    base, other = np.zeros(9), np.array((1.0, 1, 2, 2, 2, 2, 3, 3, 9)) / 8
    expected = np.where(other >= (2 + 1.5 * (3 - 2)) / 8, other, 0)
    np.testing.assert_array_equal(arcee_fusion.arcee_fusion_literal(base, other), expected)
    assert np.count_nonzero(expected) == 1


def test_what_is_equally_important_is_all_taken():
    other = np.array((1.0, -1, -1, 1, 1))
    np.testing.assert_array_equal(arcee_fusion.arcee_fusion_literal(np.zeros(5), other), other)


def test_a_row_that_diverges_comes_before_one_that_does_not():
    base = np.zeros((2, 8))
    other = np.zeros((2, 8))
    other[0] = 1  # the same for all: its softmax stays
    other[1, 0] = 0.5
    merged = arcee_fusion.arcee_fusion_literal(base, other)
    assert merged[1, 0] == 0.5


@pytest.mark.parametrize("shape", [(), (1,), (3, 4), (2, 3, 4)])
def test_nothing_changed_takes_all_of_it(shape):
    base = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_array_equal(arcee_fusion.arcee_fusion_literal(base, base), base)
    far = arcee_fusion.arcee_fusion_literal(base, base + np.arange(base.size).reshape(shape))
    assert np.all((far == base) | (far == base + np.arange(base.size).reshape(shape)))


def test_every_row_is_weighed_by_its_own_divergence():
    rng = np.random.default_rng(1)
    base, other = rng.normal(size=(2, 30, 20))
    importance = np.stack(
        [np.abs(v - b) * arcee_fusion.divergence_literal(b, v) for b, v in zip(base, other, strict=True)]
    )
    low, median, high = np.sort(importance, axis=None)[[149, 299, 449]]
    expected = np.where(importance >= median + 1.5 * (high - low), other, base)
    np.testing.assert_array_equal(arcee_fusion.arcee_fusion_literal(base, other), expected)
    assert 0 < (expected != base).sum() < 100
