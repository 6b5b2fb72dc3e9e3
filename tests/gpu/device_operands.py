"""Operands on a device, the layouts that they may have, and what the reference makes of copies of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from sta_kernels.kernels import ENVIRONMENT_VARIABLE, interpreted

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Operands:
    """A base, and per task a fine-tuned tensor and an importance, coarse enough to tie or ``positive`` and continuous.

    Importances of the first kind are often 0.
    """

    def __init__(
        self,
        device: torch.device | str,
        shape: Sequence[int],
        n_tasks: int,
        weights: torch.dtype = torch.float32,
        importances: torch.dtype | None = None,
        *,
        positive: bool = False,
        seed: int = 20241125,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        base = torch.randn(shape, generator=generator)
        models = [base + 0.1 * torch.randn(shape, generator=generator) for _ in range(n_tasks)]
        scores = [torch.randint(0, 9, shape, generator=generator) * 0.37 * (i + 1) for i in range(n_tasks)]
        if positive:
            scores = [torch.randn(shape, generator=generator).exp() + 0.01 * (i + 1) for i in range(n_tasks)]
            # What is least becomes 0 when it is normalised. It lies in the tail, on no whole block.
            for model, score in zip(models, scores, strict=True):
                model.view(-1)[-1], score.view(-1)[-1] = 0.0, 2.0**-10
        self.base = base.to(weights).to(device)
        self.finetuned = [each.to(weights).to(device) for each in models]
        self.importances = [each.to(importances or weights).to(device) for each in scores]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.base, self.finetuned, self.importances))

    def laid_out(self, base: str, models: str, importances: str) -> Operands:
        """The same values in other layouts."""
        self.base = LAYOUTS[base](self.base)
        self.finetuned = [LAYOUTS[models](each) for each in self.finetuned]
        self.importances = [LAYOUTS[importances](each) for each in self.importances]
        return self


def many(blocks: int = 1) -> int:
    """Elements enough for several default blocks, and a tail; the interpreter takes so many of the largest."""
    return (1024 * blocks if interpreted() else 300_000) + 41


def count_fast_blocks(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows, in the interpreter, by one for every block that a merge takes on its fast path."""
    from sta_kernels.kernels.triton import sta_merge

    seen: list[None] = []
    select = sta_merge.select

    def counted(*arguments: Any) -> Any:
        seen.append(None)
        return select(*arguments)

    monkeypatch.setattr(sta_merge, "select", counted)
    return seen


def _gaps(tensor: Tensor) -> Tensor:
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan, dtype=tensor.dtype, device=tensor.device)
    wide[..., ::2] = tensor
    return wide[..., ::2]


def _misaligned(tensor: Tensor) -> Tensor:
    """One element past a multiple of 16 bytes."""
    room = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
    return room[1:].view(tensor.shape).copy_(tensor)


def _expanded(tensor: Tensor) -> Tensor:
    """The first row, again and again; not the same values."""
    return tensor[:1].expand(tensor.shape)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda tensor: tensor,
    "transposed": lambda tensor: tensor.t().contiguous().t(),
    "gaps": _gaps,
    "misaligned": _misaligned,
    "expanded": _expanded,
    "parameter": lambda tensor: torch.nn.Parameter(tensor.clone()),
}


@contextmanager
def reference() -> Iterator[None]:
    """Serve the ops called within from the NumPy reference."""
    before = os.environ.get(ENVIRONMENT_VARIABLE)
    os.environ[ENVIRONMENT_VARIABLE] = "reference"
    try:
        yield
    finally:
        del os.environ[ENVIRONMENT_VARIABLE]
        if before is not None:
            os.environ[ENVIRONMENT_VARIABLE] = before


def on_cpu(value: Any) -> Any:
    """Copies of all tensors in main memory; a result of the op itself is copied after it has been given back."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, (list, tuple)):
        return type(value)(map(on_cpu, value))
    return value


def check(op: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Call an op on the device, and hold what it returns and what it changes against the reference, bit for bit."""
    copies, named = on_cpu(list(arguments)), {name: on_cpu(value) for name, value in keywords.items()}
    with reference():
        expected = op(*copies, **named)
    actual = op(*arguments, **keywords)
    same(actual, expected)
    same(list(arguments), copies)
    for name, value in keywords.items():
        same(value, named[name])
    return actual


def same(actual: Any, expected: Any) -> None:
    """Equality of every bit but a NaN's payload."""
    if isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for ours, theirs in zip(actual, expected, strict=True):
            same(ours, theirs)
    elif isinstance(expected, Tensor):
        actual = on_cpu(actual)
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        if actual.dtype.is_floating_point:
            assert torch.equal(actual.isnan(), expected.isnan())
            numbers = ~actual.isnan()
            integers = _INTEGERS[actual.itemsize]
            actual, expected = actual[numbers].view(integers), expected[numbers].view(integers)
        assert torch.equal(actual, expected)
