"""``ops.minmax``, ``ops.normaliser`` and ``ops.order_statistic`` against one read of their input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import costs
from benchmarks.harness import Contender, Contest, check_bits, reference
from benchmarks.rooflines import stream_read
from sta_kernels import ops
from sta_kernels.methods.quantile import rank_of_quantile

N_TENSORS = 6

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def importances(n_tensors: int, n_elements: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n_tensors)
    return [torch.empty(n_elements).log_normal_(-8.0, 2.0, generator=generator).to(dtype) for _ in range(n_tensors)]


def case(dtype: torch.dtype, tensors: Sequence[Tensor]) -> dict[str, object]:
    return {
        "elements": tensors[0].numel(),
        "tensors": len(tensors),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def eager_minmax(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([torch.stack(torch.aminmax(each)) for each in tensors]).float()


@every_dtype
def test_minmax(contest: Contest, elements: int, dtype: torch.dtype) -> None:
    tensors = importances(N_TENSORS, elements, dtype)
    check_bits(ops.minmax(tensors), eager_minmax(tensors))
    contenders = (
        Contender("minmax", lambda: ops.minmax(tensors), costs.read_once(tensors)),
        stream_read(tensors),
        Contender("eager", lambda: eager_minmax(tensors), costs.read_once(tensors)),
    )
    contest("minmax", contenders, case(dtype, tensors))


@every_dtype
@pytest.mark.parametrize("kind", ["minmax", "mean"])
def test_normaliser(contest: Contest, elements: int, dtype: torch.dtype, kind: str) -> None:
    tensors = importances(N_TENSORS, elements, dtype)
    with reference():
        expected = ops.normaliser(tensors, kind)
    check_bits(ops.normaliser(tensors, kind), expected)

    def eager() -> Tensor:
        if kind == "mean":
            return torch.stack([each.float().mean() for each in tensors])
        low, high = eager_minmax(tensors).unbind(1)
        return torch.stack((low, high - low), dim=1)

    contenders = (
        Contender("normaliser", lambda: ops.normaliser(tensors, kind), costs.read_once(tensors)),
        stream_read(tensors),
        Contender("eager", eager, costs.read_once(tensors)),
    )
    contest("normaliser", contenders, case(dtype, tensors) | {"kind": kind})


@every_dtype
def test_order_statistic(contest: Contest, elements: int, dtype: torch.dtype) -> None:
    """Of a tensor four times as large as the others' operands: 64 Mi elements."""
    tensors = importances(1, 4 * elements, dtype)
    (x,) = tensors
    k = rank_of_quantile(0.7, x.numel())
    n_bytes = costs.read_once(tensors)
    contenders = [
        Contender("order_statistic", lambda: ops.order_statistic(x, k), n_bytes),
        stream_read(tensors),
        Contender("torch.kthvalue", lambda: torch.kthvalue(x, k).values, n_bytes),
    ]
    if dtype is torch.float32:  # NumPy has no bfloat16
        values = x.numpy()
        contenders.append(Contender("numpy.partition", lambda: np.partition(values, k - 1)[k - 1], n_bytes))
        assert ops.order_statistic(x, k) == float(np.partition(values, k - 1)[k - 1])
    check_bits(ops.order_statistic(x, k), torch.kthvalue(x, k).values)
    contest("order_statistic", contenders, case(dtype, tensors), share_of_rounds=0.4)
