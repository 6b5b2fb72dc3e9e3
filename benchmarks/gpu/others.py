"""The other ops on one large tensor, or on a list of them, against what PyTorch offers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks import baselines, costs
from benchmarks.gpu.timing import copy
from benchmarks.harness import Contender, check_bits, check_mostly_equal
from sta_kernels import ops

Compile = Callable[[Callable[..., Any]], Callable[..., Any]]
Contest = tuple[str, list[Contender], dict[str, Any]]


def contests(device: torch.device, elements: int, compiled: Compile) -> Iterator[Contest]:
    """(op, checked contenders, case) of each op but ``sta_merge``.

    Args:
        device: a GPU.
        elements: of each tensor.
        compiled: ``torch.compile`` for vectors of any length.

    Raises:
        AssertionError: a contender gives another result.
    """
    generator = torch.Generator(device).manual_seed(0)

    def fresh() -> Tensor:
        return torch.empty(elements, device=device).log_normal_(-8.0, 2.0, generator=generator)

    base, model, score, out = (fresh() for _ in range(4))
    models = [model, *(fresh() for _ in range(3))]
    case = {"elements": elements, "dtype": "float32"}
    for make in (_minmax, _order_statistic, _sta_forget, _task_arithmetic, _taylor_accumulate):
        op, contenders = make(base, models, score, out, compiled)
        yield op, [*contenders, copy(device, contenders[0].n_bytes)], case | {"tensors": 4 if op == "minmax" else 1}


def _minmax(base: Tensor, models: list[Tensor], score: Tensor, out: Tensor, compiled: Compile) -> Any:
    n_bytes = costs.read_once(models)

    def eager() -> Tensor:
        return torch.stack([torch.stack(torch.aminmax(each)) for each in models])

    check_bits(ops.minmax(models), eager())
    return "minmax", [
        Contender("minmax", lambda: ops.minmax(models), n_bytes),
        Contender("eager", eager, n_bytes),
    ]


def _order_statistic(base: Tensor, models: list[Tensor], score: Tensor, out: Tensor, compiled: Compile) -> Any:
    k, n_bytes = 1 + 7 * (score.numel() - 1) // 10, costs.read_once([score])

    def eager() -> Tensor:
        return torch.sort(score).values[k - 1]

    check_bits(ops.order_statistic(score, k), eager())
    return "order_statistic", [
        Contender("order_statistic", lambda: ops.order_statistic(score, k), n_bytes),
        Contender("sort", eager, n_bytes),
    ]


def _sta_forget(base: Tensor, models: list[Tensor], score: Tensor, out: Tensor, compiled: Compile) -> Any:
    n_bytes = costs.sta_forget(base, base, models[0], score, out) - base.nbytes  # target and base are one

    def eager() -> Tensor:
        return baselines.sta_forget_eager(base, base, models[0], score, 0.7)

    check_mostly_equal(ops.sta_forget(base, base, models[0], score, p=0.7), eager())
    return "sta_forget", [
        Contender("sta_forget", lambda: ops.sta_forget(base, base, models[0], score, p=0.7, out=out), n_bytes),
        Contender("eager", eager, n_bytes),
    ]


def _task_arithmetic(base: Tensor, models: list[Tensor], score: Tensor, out: Tensor, compiled: Compile) -> Any:
    n_bytes = costs.task_arithmetic(base, models, out)
    fused, result = compiled(baselines.task_arithmetic_fused), torch.empty_like(out)
    ops.task_arithmetic(base, models, lambda_=0.3, out=out)
    check_mostly_equal(baselines.task_arithmetic_eager(base, models, 0.3), out)
    fused(base, *models, result, lambda_=0.3)
    check_mostly_equal(result, out)
    return "task_arithmetic", [
        Contender("task_arithmetic", lambda: ops.task_arithmetic(base, models, lambda_=0.3, out=out), n_bytes),
        Contender("eager", lambda: baselines.task_arithmetic_eager(base, models, 0.3), n_bytes),
        Contender("torch.compile", lambda: fused(base, *models, result, lambda_=0.3), n_bytes),
    ]


def _taylor_accumulate(base: Tensor, models: list[Tensor], score: Tensor, out: Tensor, compiled: Compile) -> Any:
    total, grad, n_bytes = score.clone(), base, costs.taylor_accumulate(score, base)
    fused = compiled(baselines.taylor_accumulate)
    totals = [score.clone() for _ in range(3)]
    ops.taylor_accumulate_(totals[0], grad)
    baselines.taylor_accumulate(totals[1], grad)
    fused(totals[2], grad)
    for each in totals[1:]:
        check_bits(each, totals[0])
    return "taylor_accumulate", [
        Contender("taylor_accumulate", lambda: ops.taylor_accumulate_(total, grad), n_bytes),
        Contender("eager", lambda: baselines.taylor_accumulate(total, grad), n_bytes),
        Contender("torch.compile", lambda: fused(total, grad), n_bytes),
    ]
