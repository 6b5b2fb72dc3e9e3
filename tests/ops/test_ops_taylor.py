"""``taylor_accumulate_`` and ``taylor_finish``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ops_oracle import assert_bits, float32

from sta_kernels import ops
from sta_kernels.kernels.reference import importance, statistics

pytestmark = pytest.mark.usefixtures("backend")


def test_worked_example():
    theta = torch.tensor([1.0, -2.0, 0.5])
    total = torch.zeros(3)
    for grad in ((0.5, -0.25, 1.0), (-0.5, 0.75, 1.0)):
        assert ops.taylor_accumulate_(total, torch.tensor(grad)) is total
    assert ops.taylor_finish(total, theta)[0].tolist() == [1, 2, 1]
    assert ops.taylor_finish(total, theta, measure="lp_amp")[0].tolist() == [1, 8, 0.25]
    assert ops.taylor_finish(total, theta, measure="amp")[0].tolist() == [1, 4, 0.25]


@pytest.mark.parametrize("measure", ["lp", "amp", "lp_amp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_equals_the_equations(measure, dtype):
    generator = torch.Generator().manual_seed(11)
    param = torch.randn(91, 101, generator=generator)
    total = torch.zeros(91, 101, dtype=dtype)
    sums = float32(total)
    for _ in range(3):
        grad = torch.randn(91, 101, generator=generator)
        ops.taylor_accumulate_(total, grad.t().contiguous().t())
        sums = torch.from_numpy(importance.accumulate_exact(sums, float32(grad))).to(dtype).float().numpy()
    assert_bits(total, sums)

    lp = importance.lp_exact(float32(param), sums)
    expected = torch.from_numpy(importance.measure_exact(measure, lp, float32(param))).to(dtype)
    result, stats = ops.taylor_finish(total, torch.nn.Parameter(param), measure=measure)
    assert_bits(result, expected)
    assert not result.requires_grad
    written = float32(result)
    mean = np.float32(statistics.fold_exact(statistics.leaf_sums_exact(written)) / written.size)
    assert_bits(stats, np.array((written.min(), written.max(), mean), np.float32))

    version = total._version
    in_place, stats_in_place = ops.taylor_finish(total, param, measure=measure, out=total)
    assert in_place is total
    assert total._version > version
    assert_bits(total, expected)
    assert_bits(stats_in_place, stats)


def test_out_in_another_dtype_describes_what_was_written():
    total, param = torch.tensor([1.0, 3.0]), torch.tensor([1 + 2.0**-10, 1.0])
    out = torch.empty(2, dtype=torch.bfloat16)
    result, stats = ops.taylor_finish(total, param, out=out)
    assert result is out
    assert out.tolist() == [1, 3]
    assert stats.tolist() == [1, 3, 2]


def test_empty_and_scalar():
    result, stats = ops.taylor_finish(torch.empty(0), torch.empty(0))
    assert result.shape == (0,)
    assert stats.tolist() == [torch.inf, -torch.inf, 0]
    total = torch.tensor(1.0)
    ops.taylor_accumulate_(total, torch.tensor(-2.0, dtype=torch.float64))
    result, stats = ops.taylor_finish(total, torch.tensor(-3.0))
    assert result.item() == 9
    assert stats.tolist() == [9, 9, 9]


def test_total_may_be_its_own_gradient():
    total = torch.tensor([1.0, 2.0])
    version = total._version
    ops.taylor_accumulate_(total, total)
    assert total.tolist() == [2, 4]
    assert total._version > version


def test_nan_shows_in_the_range():
    _, stats = ops.taylor_finish(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 1.0]))
    assert stats.isnan().all()


def test_mean_is_summed_pairwise():
    """Leaves a, 1, 1, 1 with a + 1 = a in float64: in pairs the last two survive, one by one none does."""
    total = torch.zeros(4, 4096)
    total[:, 0] = torch.tensor([2.0**53, 1, 1, 1])
    total[0, 1] = 2.0**29  # a lies midway between two float32 numbers, so that what survives decides the rounding
    _, stats = ops.taylor_finish(total, torch.ones(4, 4096))
    assert stats[2].item() == (2.0**53 + 2.0**30) / total.numel()
    assert ops.normaliser([total], "mean")[0, 1].item() == stats[2].item()
    assert ops.normaliser([list(total)], "mean")[0, 1].item() == stats[2].item()
