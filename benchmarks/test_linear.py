"""``ops.linear`` and ``ops.task_arithmetic`` against a sum of the same streams, eager and compiled PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

from benchmarks import baselines, costs
from benchmarks.harness import Contender, Contest, check_bits, check_mostly_equal, reference, windows
from benchmarks.operands import Operands, case, operands
from benchmarks.rooflines import stream_sum
from sta_kernels import ops

LAMBDA = 0.4


@dataclass(frozen=True)
class Method:
    """An op with its baselines: each a function of the operands."""

    op: Callable[[Operands], Tensor]
    eager: Callable[[Operands], Tensor]
    fused: Callable[..., None]
    streams: Callable[[Operands], Sequence[Tensor]]
    n_bytes: Callable[[Operands], int]


METHODS = {
    "linear": Method(
        op=lambda o: ops.linear(None, o.finetuned, out=o.out),
        eager=lambda o: baselines.linear_eager(o.finetuned),
        fused=baselines.linear_fused,
        streams=lambda o: o.finetuned,
        n_bytes=lambda o: costs.linear(o.finetuned, o.out),
    ),
    "task_arithmetic": Method(
        op=lambda o: ops.task_arithmetic(o.base, o.finetuned, lambda_=LAMBDA, out=o.out),
        eager=lambda o: baselines.task_arithmetic_eager(o.base, o.finetuned, LAMBDA),
        fused=partial(baselines.task_arithmetic_fused, lambda_=LAMBDA),
        streams=lambda o: [o.base, *o.finetuned],
        n_bytes=lambda o: costs.task_arithmetic(o.base, o.finetuned, o.out),
    ),
}

every_method = pytest.mark.parametrize("name", METHODS)


def checked(name: str, o: Operands) -> Contender:
    method = METHODS[name]
    method.op(o)
    for window in windows(len(o.base)):
        part = o[window]
        result = part.out.clone()
        with reference():
            method.op(part)
        check_bits(result, part.out)
    return Contender(name, lambda: method.op(o), method.n_bytes(o))


@every_method
@pytest.mark.parametrize("formats", ["float32", "bfloat16"])
@pytest.mark.parametrize("n_models", [2, 4, 6, 8])
def test_against_roofline_and_eager(contest: Contest, elements: int, name: str, formats: str, n_models: int) -> None:
    method, o = METHODS[name], operands(formats, n_models, elements)
    ours = checked(name, o)
    check_mostly_equal(method.eager(o), o.out)
    roofline = stream_sum(method.streams(o), torch.empty_like(o.out))
    eager = Contender("eager", lambda: method.eager(o), ours.n_bytes)
    contest(name, (ours, roofline, eager), case(formats, n_models, elements), share_of_rounds=0.5)


@every_method
def test_against_compiled(contest: Contest, elements: int, name: str) -> None:
    method, o = METHODS[name], operands("float32", 6, elements)
    ours = checked(name, o)
    fused, result = baselines.compiled(method.fused), torch.empty_like(o.out)
    streams = method.streams(o)
    fused(*streams, result)
    check_mostly_equal(result, o.out)
    contenders = (ours, Contender("torch.compile", lambda: fused(*streams, result), ours.n_bytes))
    contest(name, contenders, case("float32", 6, elements))
