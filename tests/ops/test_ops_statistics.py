"""``minmax``, ``normaliser`` and ``order_statistic``."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ops_oracle import assert_bits

from sta_kernels import ops
from sta_kernels.kernels.reference import statistics

pytestmark = pytest.mark.usefixtures("backend")


def test_minmax_of_many_tensors():
    tensors = [
        torch.tensor([3.0, -1.0, 2.0]),
        torch.tensor(7.0, dtype=torch.float64),
        torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).t(),
        torch.tensor([[1.0, torch.nan], [5.0, 2.0]]),
        torch.empty(0, 4),
        torch.tensor([0.0, -0.0]),
    ]
    nan, inf = math.nan, math.inf
    expected = torch.tensor([[-1, 3], [7, 7], [0, 5], [nan, nan], [inf, -inf], [-0.0, 0.0]])
    result = ops.minmax(tensors)
    assert result.shape == (6, 2)
    assert_bits(result, expected)


def test_minmax_rounds_float64_as_it_is_read():
    value = 1 + 2.0**-40
    assert ops.minmax([torch.tensor([value], dtype=torch.float64)]).tolist() == [[1.0, 1.0]]


def test_normaliser_is_minimum_and_range():
    tensors = [torch.tensor([3.0, -1.0]), torch.tensor([2.0, 2.0]), torch.tensor([torch.nan, 1.0])]
    expected = torch.tensor([[-1.0, 4.0], [2.0, 0.0], [torch.nan, torch.nan]])
    assert_bits(ops.normaliser(tensors), expected)


def test_normaliser_mean_is_the_tier_b_sum():
    values = torch.rand(3, 5001, generator=torch.Generator().manual_seed(3))
    leaves = statistics.leaf_sums_exact(values.reshape(-1).numpy())
    mean = np.float32(statistics.fold_exact(leaves) / values.numel())
    result = ops.normaliser([values, torch.empty(0)], "mean")
    assert_bits(result, np.array(((0, mean), (0, 0)), np.float32))
    assert mean == pytest.approx(values.double().mean().item(), rel=1e-7)


def test_a_block_shares_one_normaliser():
    first, second, alone = torch.tensor([1.0, 5.0]), torch.tensor([[-2.0], [3.0]]), torch.tensor([4.0, 6.0])
    assert ops.normaliser([[first, second], alone]).tolist() == [[-2.0, 7.0], [4.0, 2.0]]
    assert ops.normaliser([[first, second], (alone,)], "mean").tolist() == [[0.0, 1.75], [0.0, 5.0]]


def test_a_block_orders_zeros_and_keeps_nan():
    minus, plus = torch.tensor([-0.0]), torch.tensor([0.0])
    for block in ([minus, plus], [plus, minus]):
        assert_bits(ops.normaliser([block]), torch.tensor([[-0.0, 0.0]]))
    for block in ([minus, torch.tensor([torch.nan])], [torch.tensor([torch.nan]), minus]):
        assert ops.normaliser([block]).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_order_statistic_is_exact(dtype):
    x = torch.randn(13, 17, generator=torch.Generator().manual_seed(5)).to(dtype).t()
    values = x.flatten().sort().values
    for k in (1, 2, 100, x.numel()):
        result = ops.order_statistic(x, k)
        assert result.shape == ()
        assert_bits(result, values[k - 1])


def test_order_statistic_of_float64_is_not_rounded():
    x = torch.tensor([1 + 2.0**-40, 1.0, 1 - 2.0**-40], dtype=torch.float64)
    assert [ops.order_statistic(x, k).item() for k in (1, 2, 3)] == sorted(x.tolist())


def test_order_statistic_orders_zeros_nan_and_subnormals():
    x = torch.tensor([torch.nan, 0.0, -0.0, 1e-45, -torch.inf])
    expected = torch.tensor([-torch.inf, -0.0, 0.0, 1e-45, torch.nan])
    assert_bits(torch.stack([ops.order_statistic(x, k) for k in range(1, 6)]), expected)
    assert ops.order_statistic(torch.tensor(2.5), 1).item() == 2.5


def test_flush_denormal_of_the_caller_changes_nothing():
    tensors = [[torch.tensor([3e-45, 1e-42]), torch.tensor([2e-44])]]
    single = torch.tensor([1e-45])
    calls = (
        lambda: ops.normaliser(tensors),
        lambda: ops.normaliser(tensors, "mean"),
        lambda: ops.order_statistic(single, 1),
        lambda: ops.taylor_finish(torch.tensor([1.0]), single)[1],
    )
    expected = [call() for call in calls]
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush")
    try:
        results = [call() for call in calls]
    finally:
        torch.set_flush_denormal(False)
    for result, other in zip(results, expected, strict=True):
        assert other.count_nonzero()
        assert_bits(result, other)
