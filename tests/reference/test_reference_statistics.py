"""Ranges, tier-B sums and order statistics, against plain Python."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sta_kernels.kernels.reference import order, statistics

floats = st.floats(width=32)
SPECIAL = np.float32([-np.inf, -3.4e38, -1, -1e-45, -0.0, 0.0, 1e-45, 1.17549435e-38, 1, 3.4e38, np.inf, np.nan])


def tier_b_leaf(values):
    lanes = [0.0] * 32
    for i, value in enumerate(values):
        lanes[i % 32] += float(value)
    for width in (16, 8, 4, 2, 1):
        lanes = [lanes[lane] + lanes[lane + width] for lane in range(width)]
    return lanes[0]


def tier_b_fold(leaves):
    while len(leaves) > 1:
        paired = [a + b for a, b in itertools.zip_longest(leaves[::2], leaves[1::2]) if b is not None]
        leaves = paired + ([leaves[-1]] if len(leaves) % 2 else [])
    return leaves[0] if leaves else 0.0


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 63, 64, 65, 4095, 4096, 4097, 5 * 4096 + 1])
def test_leaf_sums_follow_the_lanes(n):
    values = np.random.default_rng(n).standard_normal(n).astype(np.float32) * np.float32(1e3) ** (np.arange(n) % 7)
    values = values.astype(np.float32)
    expected = [tier_b_leaf(values[start : start + 4096]) for start in range(0, n, 4096)]
    np.testing.assert_array_equal(statistics.leaf_sums_exact(values), expected)
    assert statistics.fold_exact(statistics.leaf_sums_exact(values)) == tier_b_fold(expected)


def test_fold_adds_adjacent_pairs():
    rng = np.random.default_rng(0)
    for m in (*range(1, 200), 1000):
        leaves = rng.standard_normal(m)
        assert statistics.fold_exact(leaves) == tier_b_fold(leaves.tolist())


def test_fold_carries_the_odd_one_unchanged():
    # Had the odd one joined the first pair of its level, 1 would be lost in 2**60.
    assert statistics.fold_exact(np.array([2.0**60, -(2.0**60), 1.0])) == 1.0
    assert statistics.fold_exact(np.array([1.0, 2.0**60, -(2.0**60)])) == 0.0


def test_the_sum_of_negative_zeros_is_plus_zero():
    (leaf,) = statistics.leaf_sums_exact(np.full(4096, -0.0, np.float32))
    assert math.copysign(1, leaf) == 1


def test_mean():
    values = np.random.default_rng(0).random(10_000, np.float32)
    assert statistics.mean_exact(values).dtype == np.float32
    assert statistics.mean_exact(values) == pytest.approx(statistics.mean_literal(values), rel=1e-7)
    assert statistics.mean_exact(np.float32([[1, 2], [3, 6]])) == statistics.mean_literal([[1, 2], [3, 6]]) == 3


@given(st.lists(floats, max_size=40), st.integers(0, 40))
def test_range_equals_pythons_and_folds(values, cut):
    values = np.array(values, np.float32)
    whole = statistics.range_exact(values)
    folded = statistics.range_exact(values[cut:], *statistics.range_exact(values[:cut]))
    np.testing.assert_array_equal(np.float32(folded).view(np.uint32), np.float32(whole).view(np.uint32))
    if np.isnan(values).any():
        assert np.isnan(whole).all()
    elif len(values):
        assert whole == (values.min(), values.max()) == statistics.range_literal(values)
    else:
        assert whole == (np.inf, -np.inf)


def test_range_orders_the_zeros():
    for values in ([0.0, -0.0], [-0.0, 0.0]):
        low, high = statistics.range_exact(np.float32(values))
        assert math.copysign(1, low) == -1
        assert math.copysign(1, high) == 1


def test_a_nan_makes_the_range_nan_for_good():
    assert np.isnan(statistics.range_exact(np.float32([1, np.nan]))).all()
    assert np.isnan(statistics.range_exact(np.float32([1]), np.nan, np.nan)).all()
    assert np.isnan(statistics.range_exact(np.float32([]), np.nan, np.nan)).all()
    assert np.isnan(statistics.range_literal([1, np.nan])).all()


def test_minmax_normaliser():
    shift, divisor = statistics.minmax_normaliser_exact(np.float32([3, 0.1, 7]))
    assert (shift, divisor) == (np.float32(0.1), np.float32(7) - np.float32(0.1))
    assert shift.dtype == divisor.dtype == np.float32


def test_keys_order_the_special_values():
    keys = order.keys_exact(SPECIAL)
    assert (np.diff(keys.astype(np.int64)) > 0).all()
    assert keys[-1] == order.NAN_KEY
    np.testing.assert_array_equal(
        order.keys_exact(np.uint32([0x7FC00000, 0xFFC00000, 0x7F800001]).view(np.float32)), keys[-1]
    )


@given(st.lists(st.floats(), min_size=2, max_size=2))
def test_keys_order_float64(pair):
    a, b = (int(key) for key in order.keys_exact(np.array(pair)))
    if any(np.isnan(pair)):
        assert max(a, b) == (1 << 64) - 1
    else:
        assert (a < b) == (
            pair[0] < pair[1] or (pair[0] == pair[1] and math.copysign(1, pair[0]) < math.copysign(1, pair[1]))
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_value_comes_back_from_its_key(dtype):
    values = SPECIAL.astype(dtype)
    back = np.array([order.value_of_key_exact(int(key), dtype) for key in order.keys_exact(values)], dtype)
    assert back.tobytes() == values.tobytes()


@given(st.lists(floats, min_size=1, max_size=60), st.data())
def test_selection_equals_sorting(values, data):
    values = np.array(values, np.float32)
    k = data.draw(st.integers(1, len(values)))
    cut = data.draw(st.integers(0, len(values)))
    keys = order.keys_exact(values)
    selected = order.select_key_exact(lambda: (keys[:cut], keys[cut:]), 32, k)
    assert selected == np.sort(keys)[k - 1]
    np.testing.assert_array_equal(order.value_of_key_exact(selected), order.order_statistic_literal(values, k))


@pytest.mark.parametrize(("prefix_bits", "digit_bits"), [(0, 12), (12, 10), (22, 10), (0, 32 - 14), (31, 1)])
def test_digit_counts(prefix_bits, digit_bits):
    keys = np.random.default_rng(0).integers(0, 1 << 32, 5000, np.uint32)
    keys[:1000] = keys[0] & np.uint32(0xFFFFF000) | keys[:1000] & np.uint32(0xFFF)
    prefix = int(keys[0]) >> (32 - prefix_bits)
    expected = [0] * (1 << digit_bits)
    for key in map(int, keys):
        if key >> (32 - prefix_bits) == prefix:
            expected[key >> (32 - prefix_bits - digit_bits) & ((1 << digit_bits) - 1)] += 1
    counts = order.digit_counts_exact(keys, prefix, prefix_bits, digit_bits)
    assert counts.dtype == np.uint64
    assert counts.sum() >= 1
    np.testing.assert_array_equal(counts, expected)
