"""Breadcrumbs: the worked example by tensor and by row, counts, equal magnitudes."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.reference.literal import breadcrumbs

ROWS = np.array(((4.0, -1, 5, 3, -6, 2), (1, 2, 3, 4, 5, 6)))
CRUMBS = np.array(((4, 0, 5, 3, 0, 0), (0, 0, 3, 4, 5, 0)))


def test_rows():
    np.testing.assert_array_equal(breadcrumbs.crumbs_by_row_literal(ROWS, 0.5, "1/6"), CRUMBS)
    np.testing.assert_array_equal([breadcrumbs.crumbs_literal(row, 0.5, "1/6") for row in ROWS], CRUMBS)


def test_a_tensor_is_more_than_its_rows():
    crumbs = breadcrumbs.crumbs_literal(ROWS, 0.5, "1/6")  # of twelve: two dropped, six kept
    np.testing.assert_array_equal(crumbs, ((4, 0, 5, 3, 0, 0), (0, 0, 3, 4, 5, 0)))
    crumbs = breadcrumbs.crumbs_literal(ROWS * np.array(((10,), (1,))), 0.5, "1/6")
    np.testing.assert_array_equal(crumbs, ((40, -10, 0, 30, 0, 20), (0, 0, 0, 0, 5, 6)))


def test_a_small_share_of_few_entries_drops_no_outlier():
    tau = np.arange(1.0, 11)
    np.testing.assert_array_equal(breadcrumbs.crumbs_literal(tau, 0.5, 0.01), np.where(tau > 5, tau, 0))


def test_narrow_rows_keep_nothing():
    np.testing.assert_array_equal(breadcrumbs.crumbs_by_row_literal(ROWS.reshape(2, 2, 3), 0.2, 0.1), 0)


@pytest.mark.parametrize(
    ("density", "gamma", "dropped", "kept"),
    [(0.29, 0.01, 10, 290), (0.9, 0.2, 100, 900), (0.99, 1, 10, 990), (0, 0.1, 100, 0), (1, 0.5, 0, 1000)],
)
def test_counts(density, gamma, dropped, kept):
    tau = np.random.default_rng(0).permutation(np.arange(1.0, 1001))
    crumbs = np.sort(breadcrumbs.crumbs_literal(tau, density, gamma))[::-1]
    np.testing.assert_array_equal(crumbs[:kept], np.arange(1000 - dropped, 1000 - dropped - kept, -1))
    np.testing.assert_array_equal(crumbs[kept:], 0)


def test_the_lowest_index_is_the_greatest_among_equals():
    np.testing.assert_array_equal(breadcrumbs.crumbs_literal(np.array([1.0, -1, 1, -1, 1]), 0.4, 0.2), (0, -1, 1, 0, 0))


def test_merged(FX):
    merged = breadcrumbs.breadcrumbs_literal(FX.base, FX.finetuned, "1/3", "1/6", (1, 2, 1), 0.5)
    expected = (4 + 0 + 0, 0, 0, 3 + 2 * 3 - 3, 0, 0)
    expected = np.array(expected) + np.array((0, -2 * 5 + 3, 0, 0, 0, 0))
    np.testing.assert_array_equal(16 * (merged - FX.base), expected)


def test_election(FX):
    arguments = (FX.base, FX.finetuned, "1/3", "1/6", (1, 2, 1), 0.5)
    merged = breadcrumbs.breadcrumbs_literal(*arguments, elect=True)
    np.testing.assert_array_equal(16 * (merged - FX.base), (4, -10, 0, 9, 0, 0))
    merged = breadcrumbs.breadcrumbs_literal(*arguments, normalize=True, elect=True)
    np.testing.assert_array_equal(16 * (merged - FX.base), (4, -5, 0, 3, 0, 0))


def test_rescaling_restores_the_norm(FX):
    merged = breadcrumbs.breadcrumbs_literal(FX.base, FX.finetuned[:1], "1/3", "1/6", rescale=True)
    np.testing.assert_allclose(8 * (merged - FX.base), np.array((4, 0, 0, 3, 0, 0)) * 16 / 7, rtol=1e-15)
    merged = breadcrumbs.breadcrumbs_literal(FX.base, FX.finetuned[1:2], ("1/3",), (0.5,))
    np.testing.assert_array_equal(8 * (merged - FX.base), (-2, 0, 1, 0, 0, 0))
