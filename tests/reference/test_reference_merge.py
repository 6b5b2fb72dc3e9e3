"""STA fusion (eq. 13–17): the worked examples of both forms, ranks, ties and what is never selected."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.reference import importance, sta_merge
from sta_kernels.kernels.reference.quantile import position_literal, quantile_literal, rank_exact
from sta_kernels.kernels.reference.statistics import mean_normaliser_exact, minmax_normaliser_exact


def normalised_exact(values):
    shift, divisor = np.array([minmax_normaliser_exact(row) for row in values], np.float32).T
    return sta_merge.normalise_exact(values, shift, divisor)


def merge_literal(base, finetuned, values, p):
    normalised = np.array([sta_merge.normalise_literal(row) for row in values])
    return sta_merge.merge_literal(base, finetuned, sta_merge.quantile_mask_literal(normalised, p))


def merge_exact(base, finetuned, values, p):
    mask = sta_merge.mask_exact(normalised_exact(values), rank_exact(p, len(values)))
    return sta_merge.merge_exact(base, finetuned, mask)


def by_segment(merge, FX, values, p):
    parts = (slice(0, FX.split), slice(FX.split, None))
    return np.concatenate([merge(FX.base[part], FX.finetuned[:, part], values[:, part], p) for part in parts])


def test_worked_example_normalised(FX):
    rows = ((0, 0.5, 1, 0.25), (0, 0, 1, 0.5), (0, 0.5, 1, 0)), ((0, 0), (0, 1), (1, 0))
    for values, expected in zip((FX.importances_a, FX.importances_b), rows, strict=True):
        np.testing.assert_array_equal([sta_merge.normalise_literal(row) for row in values], expected)
        np.testing.assert_array_equal(normalised_exact(values), expected)


@pytest.mark.parametrize("merge", [merge_literal, merge_exact])
@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.7, (1, -2, 0.5, 0.375, 3, -1.125)),
        (0.3, (1, -1.75, 0.5, 0.75, 3, -1.125)),
        (0, (1, -1.75, 0.5, 0.75, 3, -1.125)),
        (1, (1, -2, 0.5, 0, 3, -1)),
    ],
)
def test_worked_example(FX, merge, p, expected):
    np.testing.assert_array_equal(by_segment(merge, FX, FX.importances, p), expected)


@pytest.mark.parametrize("p", [0.3, 0.7])
def test_worked_example_masks(FX, p):
    expected = {
        0.7: ((0, 0, 0, 0, 0, 0), (0, 0, 0, 1, 0, 1), (0, 0, 0, 0, 1, 0)),
        0.3: ((0, 1, 0, 1, 0, 0), (0, 0, 0, 1, 0, 1), (0, 1, 0, 0, 1, 0)),
    }[p]
    normalised = np.concatenate([normalised_exact(FX.importances_a), normalised_exact(FX.importances_b)], axis=1)
    np.testing.assert_array_equal(sta_merge.mask_exact(normalised, rank_exact(p, 3)), np.array(expected, bool))
    np.testing.assert_array_equal(sta_merge.quantile_mask_literal(normalised, p), np.array(expected, bool))


@pytest.mark.parametrize("merge", [merge_literal, merge_exact])
def test_worked_example_by_amplitude(FX, merge):
    values = importance.amp_exact(FX.finetuned)
    np.testing.assert_array_equal(by_segment(merge, FX, values, 0.7), (1.5, -2, 0.625, -0.375, 3, -1))


def test_kept_per_position():
    kept = [n - rank_exact(0.7, n) for n in (*range(1, 9), 20)]
    assert kept == [0, 1, 1, 1, 2, 2, 2, 3, 6]
    for n in range(1, 21):
        distinct = np.random.default_rng(n).permutation(n).astype(np.float32)[:, None]
        assert sta_merge.mask_exact(distinct, rank_exact(0.7, n)).sum() == n - rank_exact(0.7, n)


@pytest.mark.parametrize(("p", "n", "rank"), [(0.7, 91, 64), (0.58, 51, 30), (0.7, 25_296_896, 17_707_827)])
def test_ranks_are_exact_where_floats_are_not(p, n, rank):
    assert rank_exact(p, n) == rank
    width = np.float64 if n < 1000 else np.float32
    assert int(width(1) + width(n - 1) * width(p)) != rank


def test_position_reads_p_as_a_decimal():
    assert position_literal(0.7, 6) == position_literal("0.7", 6) == 4.5
    assert rank_exact(0, 5) == 1
    assert rank_exact(1, 5) == 5
    assert rank_exact(1e-3, 1001) == 2


def test_quantile_interpolates_and_ends_at_the_greatest():
    values = np.array((5, 1, 7, 3, 2, 6))
    assert quantile_literal(values, 0.7) == 5.5
    assert quantile_literal(values, 1) == 7
    assert quantile_literal(values, 0) == 1


def test_two_tasks_the_larger_wins_and_a_tie_drops_both():
    values = np.float32([[1, 2, 3], [2, 1, 3]])
    for p in (0, 0.1, 0.7, 0.99):
        np.testing.assert_array_equal(
            sta_merge.mask_exact(values, rank_exact(p, 2)), [[False, True, False], [True, False, False]]
        )


def test_neighbours_one_ulp_apart_are_told_apart():
    low = np.float32(0.5)
    high = np.nextafter(low, np.float32(1))
    threshold = low + np.float32(0.7) * (high - low)
    assert threshold == high  # interpolated in float32, the quantile drops the top task
    np.testing.assert_array_equal(sta_merge.mask_exact(np.array([[low], [high]]), 1), [[False], [True]])


@pytest.mark.parametrize("ties", ["drop", "all", "first"])
def test_a_single_task(ties):
    values = np.float32([[0, 1, np.nan]])
    assert not sta_merge.mask_exact(values, 1, ties).any()
    np.testing.assert_array_equal(sta_merge.mask_exact(values, 0, ties), [[True, True, False]])


@pytest.mark.parametrize(
    ("ties", "k", "expected"),
    [
        ("drop", 2, (0, 0, 0, 1)),  # 3, 1, 3, 7: s_2 = 3 drops every 3
        ("all", 2, (1, 0, 1, 1)),
        ("first", 2, (1, 0, 0, 1)),
        ("drop", 1, (1, 0, 1, 1)),
        ("all", 1, (1, 0, 1, 1)),
        ("first", 1, (1, 0, 1, 1)),
        ("drop", 0, (1, 1, 1, 1)),
        ("all", 0, (1, 1, 1, 1)),
        ("first", 0, (1, 1, 1, 1)),
        ("drop", 4, (0, 0, 0, 0)),
        ("all", 4, (0, 0, 0, 0)),
        ("first", 4, (0, 0, 0, 0)),
    ],
)
def test_ties(ties, k, expected):
    values = np.float32([[3], [1], [3], [7]])
    expected = np.array(expected, bool)[:, None]
    np.testing.assert_array_equal(sta_merge.mask_exact(values, k, ties), expected)
    np.testing.assert_array_equal(sta_merge.rank_mask_literal(values, k, ties), expected)


@pytest.mark.parametrize(("ties", "kept"), [("drop", 0), ("all", 4), ("first", 2)])
def test_an_all_equal_position(ties, kept):
    values = np.float32([[0.0], [-0.0], [0.0], [-0.0]])
    assert sta_merge.mask_exact(values, 2, ties).sum() == kept
    if ties == "first":
        np.testing.assert_array_equal(sta_merge.mask_exact(values, 2, ties)[:, 0], [True, True, False, False])


@pytest.mark.parametrize("ties", ["drop", "all", "first"])
def test_a_nan_takes_the_greatest_rank_and_is_never_selected(ties):
    values = np.float32([[np.nan], [1], [2], [3]])
    np.testing.assert_array_equal(sta_merge.mask_exact(values, 2, ties)[:, 0], [False, False, False, True])
    with_infinity = np.float32([[np.nan], [np.inf], [2], [3]])
    expected = {"drop": [0, 1, 0, 0], "all": [0, 1, 0, 0], "first": [0, 1, 0, 0]}[ties]
    np.testing.assert_array_equal(sta_merge.mask_exact(with_infinity, 2, ties)[:, 0], np.array(expected, bool))


def test_a_nan_equal_to_infinity_shares_its_tie():
    values = np.float32([[np.nan], [np.inf], [2], [3]])
    assert not sta_merge.mask_exact(values, 3, "drop").any()
    np.testing.assert_array_equal(sta_merge.mask_exact(values, 3, "all")[:, 0], [False, True, False, False])
    assert not sta_merge.mask_exact(values, 3, "first").any()  # the NaN comes first and takes the only place


def test_normalising_a_constant_or_overflowing_tensor():
    shift, divisor = np.float32([2, 0, np.nan]), np.float32([0, -0.0, np.nan])
    values = np.float32([[2, 5, np.inf], [1, np.nan, -np.inf], [1, 2, 3]])
    x = sta_merge.normalise_exact(values, shift, divisor)
    np.testing.assert_array_equal(x, [[0, 0, np.nan], [0, np.nan, np.nan], [np.nan] * 3])
    huge = np.float32([-3e38, 3e38])
    np.testing.assert_array_equal(
        sta_merge.normalise_exact(huge[None], *np.float32([[-3e38], [np.inf]])), [[0, np.nan]]
    )


def test_a_scalar_is_constant_and_never_merged():
    for p in (0, 0.3, 0.7):
        assert merge_exact(np.float32([1]), np.float32([[2], [3], [4]]), np.float32([[5], [6], [7]]), p) == 1


def test_two_elements_normalise_to_zero_and_one():
    np.testing.assert_array_equal(normalised_exact(np.float32([[3, 0.1], [-2, 7]])), [[1, 0], [0, 1]])


def test_division_is_not_multiplication_by_the_reciprocal():
    divisor = np.float32([0.1, 3, 41, 49])
    np.testing.assert_array_equal(sta_merge.normalise_exact(divisor[:, None], np.zeros_like(divisor), divisor), 1)
    assert (divisor * (np.float32(1) / divisor) != 1).any()


def test_mean_normalisation():
    values = np.float32([[1, 2, 3, 6], [0, 0, 1, 1]])
    shift, divisor = np.array([mean_normaliser_exact(row) for row in values], np.float32).T
    np.testing.assert_array_equal(shift, 0)
    np.testing.assert_array_equal(divisor, (3, 0.5))
    np.testing.assert_array_equal(sta_merge.normalise_exact(values, shift, divisor)[1], (0, 0, 2, 2))


def test_weights_and_lambda(FX):
    mask = np.ones((3, 6), bool)
    weights = (0.5, 2, 0)
    expected = FX.base + 0.25 * (0.5 * FX.taus[0] + 2 * FX.taus[1])
    np.testing.assert_array_equal(sta_merge.merge_exact(FX.base, FX.finetuned, mask, weights, 0.25), expected)
    np.testing.assert_array_equal(sta_merge.merge_literal(FX.base, FX.finetuned, mask, weights, 0.25), expected)


def test_what_is_not_selected_is_the_base_bit_for_bit():
    base = np.float32([-0.0, -0.0, 5])
    finetuned = np.float32([[-0.0, -0.0, 7]])
    merged = sta_merge.merge_exact(base, finetuned, np.array([[False, True, False]]))
    np.testing.assert_array_equal(np.signbit(merged), [True, False, False])  # −0 + 0 is +0


def test_tasks_are_added_in_order():
    base = np.float32([0])
    finetuned = np.float32([[1], [2**-24], [2**-24]])
    mask = np.ones((3, 1), bool)
    assert sta_merge.merge_exact(base, finetuned, mask) == 1
    assert sta_merge.merge_exact(base, finetuned[::-1], mask) == np.float32(1 + 2**-23)


def test_mistakes_are_refused():
    values = np.zeros((2, 3), np.float32)
    for k in (-1, 3):
        with pytest.raises(ValueError, match=f"k = {k}"):
            sta_merge.mask_exact(values, k)
    for mask in (sta_merge.mask_exact, sta_merge.rank_mask_literal):
        with pytest.raises(ValueError, match="ties 'last'"):
            mask(values, 1, "last")
