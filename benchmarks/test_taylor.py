"""``ops.taylor_accumulate_`` and ``ops.taylor_finish`` against a sum of the same streams and PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks import baselines, costs
from benchmarks.harness import Contender, Contest, check_bits, check_mostly_equal, reference, windows
from benchmarks.rooflines import stream_sum
from sta_kernels import ops

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def tensors(n_elements: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A float32 accumulator, and a gradient or parameter."""
    generator = torch.Generator().manual_seed(0)
    total = torch.empty(n_elements).log_normal_(-8.0, 2.0, generator=generator)
    return total, torch.empty(n_elements).normal_(0.0, 0.02, generator=generator).to(dtype)


def case(dtype: torch.dtype, n_elements: int, **more: str) -> dict[str, object]:
    name = str(dtype).removeprefix("torch.")
    return {"elements": n_elements, "weights": name, "total": "float32", "threads": torch.get_num_threads(), **more}


def checked_accumulate(total: Tensor, grad: Tensor) -> Contender:
    before = [total[window].clone() for window in windows(len(total))]
    ops.taylor_accumulate_(total, grad)
    for start, window in zip(before, windows(len(total)), strict=True):
        with reference():
            expected = ops.taylor_accumulate_(start, grad[window])
        check_bits(total[window], expected)
    n_bytes = costs.taylor_accumulate(total, grad)
    return Contender("taylor_accumulate_", lambda: ops.taylor_accumulate_(total, grad), n_bytes)


@every_dtype
def test_accumulate(contest: Contest, elements: int, dtype: torch.dtype) -> None:
    total, grad = tensors(elements, dtype)
    running = total.clone()
    ours = checked_accumulate(running, grad)
    mine = total.clone()
    baselines.taylor_accumulate(mine, grad)
    check_bits(mine, running)
    eager = Contender("eager", lambda: baselines.taylor_accumulate(mine, grad), ours.n_bytes)
    contenders = (ours, stream_sum([total, grad], total), eager)
    contest("taylor_accumulate_", contenders, case(dtype, elements))


@every_dtype
def test_accumulate_against_compiled(contest: Contest, elements: int, dtype: torch.dtype) -> None:
    total, grad = tensors(elements, dtype)
    running, mine = total.clone(), total.clone()
    ours = checked_accumulate(running, grad)
    fused = baselines.compiled(baselines.taylor_accumulate)
    fused(mine, grad)
    check_bits(mine, running)
    contenders = (ours, Contender("torch.compile", lambda: fused(mine, grad), ours.n_bytes))
    contest("taylor_accumulate_", contenders, case(dtype, elements))


def checked_finish(total: Tensor, param: Tensor, measure: str, out: Tensor) -> Contender:
    _, stats = ops.taylor_finish(total, param, measure=measure, out=out)
    with reference():
        expected, expected_stats = ops.taylor_finish(total, param, measure=measure)
    check_bits(out, expected)
    check_bits(stats, expected_stats)
    n_bytes = costs.taylor_finish(total, param, out)
    return Contender("taylor_finish", lambda: ops.taylor_finish(total, param, measure=measure, out=out), n_bytes)


@every_dtype
@pytest.mark.parametrize("measure", ["lp", "lp_amp"])
def test_finish(contest: Contest, elements: int, dtype: torch.dtype, measure: str) -> None:
    total, param = tensors(elements, dtype)
    out, mine = torch.empty_like(total), torch.empty_like(total)
    ours = checked_finish(total, param, measure, out)
    baselines.taylor_finish(total, param, measure, mine)
    check_mostly_equal(mine, out)
    eager = Contender("eager", lambda: baselines.taylor_finish(total, param, measure, mine), ours.n_bytes)
    contenders = (ours, stream_sum([total, param], torch.empty_like(total)), eager)
    contest("taylor_finish", contenders, case(dtype, elements, measure=measure))


@every_dtype
def test_finish_against_compiled(contest: Contest, elements: int, dtype: torch.dtype) -> None:
    total, param = tensors(elements, dtype)
    out, mine = torch.empty_like(total), torch.empty_like(total)
    ours = checked_finish(total, param, "lp", out)
    fused = baselines.compiled(baselines.taylor_finish)
    fused(total, param, "lp", mine)
    check_mostly_equal(mine, out)
    contenders = (ours, Contender("torch.compile", lambda: fused(total, param, "lp", mine), ours.n_bytes))
    contest("taylor_finish", contenders, case(dtype, elements, measure="lp"))
