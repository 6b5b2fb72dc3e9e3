"""Operands for the ops, and the backends that they are held against each other on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from ops_oracle import Operands

from sta_kernels.kernels import ENVIRONMENT_VARIABLE, native_problem

NATIVE = pytest.param("native", marks=pytest.mark.skipif(native_problem() is not None, reason="no native core"))


@pytest.fixture(params=["reference", NATIVE])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test once per backend that can serve."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, request.param)
    return request.param


@pytest.fixture
def operands() -> Callable[..., Operands]:
    """A maker of random operands, with importances coarse enough to tie."""

    def make(shape: Sequence[int] = (3, 5), n_models: int = 3, dtype: torch.dtype = torch.float32) -> Operands:
        generator = torch.Generator().manual_seed(20241125)
        base = torch.randn(shape, generator=generator).to(dtype)
        finetuned = [(base.float() + 0.1 * torch.randn(shape, generator=generator)).to(dtype) for _ in range(n_models)]
        importances = [torch.randint(0, 9, shape, generator=generator) * 0.37 * (i + 1) for i in range(n_models)]
        return Operands(base, finetuned, importances)

    return make
