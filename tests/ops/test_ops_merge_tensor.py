"""One function per method: the bits of a merge of state dicts, and errors that name what does not fit."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

import sta_kernels as sk
from sta_kernels import methods, ops

CALLS: dict[str, dict[str, Any]] = {
    "ties": {"density": 0.4},
    "dare_linear": {"density": 0.5, "seed": 3, "weight": [0.2, 0.5, 1.0]},
    "consensus": {"mask_lambda": 0.3},
    "pcb": {"ratio": 0.2},
    "sce": {"select_topk": 0.5},
}


@pytest.fixture
def tensors() -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(4)
    base = torch.randn(40, 33, generator=generator)
    return base, [(base + 0.1 * torch.randn(40, 33, generator=generator)).bfloat16() for _ in range(3)]


@pytest.mark.parametrize("name", CALLS)
def test_same_bits_as_a_merge_of_state_dicts(name: str, tensors: Any) -> None:
    base, models = tensors
    want = sk.merge({"w": base}, [{"w": model} for model in models], method=name, **CALLS[name])["w"]
    function: Callable[..., torch.Tensor] = getattr(ops, name)
    assert torch.equal(function(base, models, tensor="w", **CALLS[name]), want)
    strided = torch.empty(33, 40).t()
    assert function(base, models, tensor="w", out=strided, **CALLS[name]) is strided
    assert torch.equal(strided, want)
    own = base.clone()
    assert torch.equal(function(own, models, tensor="w", out=own, **CALLS[name]), want)


def test_importances_are_read_where_the_method_reads_them(tensors: Any) -> None:
    base, models = tensors
    scores = [model.float().square() for model in models]
    want = sk.merge({"w": base}, [{"w": m} for m in models], method="tatr", importances=[{"w": s} for s in scores])
    assert torch.equal(ops.tatr(base, models, scores), want["w"])
    with pytest.raises(ValueError, match=r"ties: importances: 3 given, it reads none"):
        ops.ties(base, models, scores)


def test_every_method_has_a_function_with_its_parameters() -> None:
    for name in methods.names():
        if name in ops.__all__:
            continue
        keywords = inspect.signature(getattr(ops, name)).parameters
        assert {parameter.name for parameter in methods.get(name).parameters} <= set(keywords)
        assert name in dir(ops)
    with pytest.raises(AttributeError, match="no attribute 'tie'"):
        _ = ops.tie


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b, m: ops.ties(None, m), "ties: base: None"),
        (
            lambda b, m: ops.ties(b, m, density=20),
            r"ties: density: expected a share in \[0, 1\], got 20; 20 % is written 0.2",
        ),
        (lambda b, m: ops.ties(b, [*m, b[1:]]), r"finetuned\[3\]: shape \[39, 33\], base has \[40, 33\]"),
        (lambda b, m: ops.ties(b, m, p=0.2), "ties has no parameter 'p'"),
        (lambda b, m: ops.tatr(b, m), "importances"),
    ],
)
def test_refused(call: Any, message: str, tensors: Any) -> None:
    with pytest.raises(ValueError, match=message):
        call(*tensors)


def test_compiles_without_a_break(tensors: Any) -> None:
    base, models = tensors

    def merge(base: torch.Tensor, models: list[torch.Tensor]) -> torch.Tensor:
        return ops.ties(base, models, density=0.4, weight=[0.5, 1.0, 2.0]) * 2

    torch._dynamo.reset()
    compiled = torch.compile(merge, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(base, models), merge(base, models))
    torch._dynamo.reset()
