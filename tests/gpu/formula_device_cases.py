"""Formulas on a device: merges, statistics of fields, gates; each against the reference on copies in main memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from formula_cases import NAMES, formula_cases, large_case, same_values

from sta_kernels.kernels import get_backend
from sta_kernels.kernels.backend import LEAF, Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.formula import FormulaSource
from sta_kernels.kernels.numpy_backend import NumpyBackend
from sta_kernels.kernels.triton.packing import tensor_of

REFERENCE = NumpyBackend()
FIELDS = ("sparse_distance", "variance", "conflict", "pcb_score", "product")
OUTS = (torch.float32, torch.bfloat16, torch.float64, torch.float16)


@pytest.fixture
def backend(device: torch.device) -> Backend:
    return get_backend("triton", device=str(device))


def moved(source: FormulaSource, device: torch.device) -> FormulaSource:
    """The same with its operands on the device."""

    def there(buffer: Buffer) -> Buffer:
        return Buffer.from_torch(tensor_of(buffer).to(device))

    return replace(
        source,
        models=tuple(map(there, source.models)),
        base=None if source.base is None else there(source.base),
        importances=tuple(map(there, source.importances)),
    )


def check(backend: Backend, source: FormulaSource, device: torch.device, out: torch.dtype = torch.float32) -> None:
    """Evaluate on the device and in main memory."""
    found, expected = (torch.full((source.size,), torch.nan, dtype=out, device=where) for where in (device, "cpu"))
    backend.evaluate(moved(source, device), out=Buffer.from_torch(found), threads=1)
    REFERENCE.evaluate(source, out=Buffer.from_torch(expected), threads=1)
    ours, theirs = (Buffer.from_torch(one) for one in (found.cpu(), expected))
    assert same_values(ours.numpy(), theirs.numpy(), ours.dtype), source.formula


@pytest.mark.parametrize("name", NAMES)
def test_a_formula(backend: Backend, device: torch.device, name: str) -> None:
    for number, source in enumerate(formula_cases(name)):
        check(backend, source, device, OUTS[number % len(OUTS)])


@pytest.mark.parametrize("name", FIELDS)
def test_statistics_of_a_field(backend: Backend, device: torch.device, name: str) -> None:
    source = large_case(name, 3 * LEAF + 77)
    found = []
    for one, run in ((source, REFERENCE), (moved(source, device), backend)):
        minmax, leaves = np.array([[np.inf, -np.inf]], np.float32), np.zeros(4)
        run.ranges([one], minmax, [leaves], threads=1)
        middle = run.order_statistic(one, source.size // 2, threads=1)
        counts = np.zeros(4, np.uint32)
        greater = run.count_equal(one, middle, counts=counts, threads=1)
        window = run.values(one, LEAF - 3, LEAF + 90)
        found.append((minmax.tolist(), leaves.tolist(), middle, greater, counts.tolist(), window.tolist()))
    assert found[1] == found[0]


@pytest.mark.parametrize("row", [1, 10, 64])
def test_gates_by_rank(backend: Backend, device: torch.device, row: int) -> None:
    generator = torch.Generator().manual_seed(row)
    base = torch.randn(10 * row * 64, generator=generator)
    model = base + torch.randint(-3, 4, base.shape, generator=generator) / 8
    found = []
    for run, where in ((REFERENCE, torch.device("cpu")), (backend, device)):
        out = torch.full_like(base, torch.nan, device=where)
        operands = [Buffer.from_torch(one.to(where)) for one in (base, model.to(torch.bfloat16))]
        run.rank_gate(
            *operands, row=row, chances=(1 << 29, 3 << 30), scaled=True, seed=(1 << 63) + 5, tensor=77, task=2,
            offset=40, out=Buffer.from_torch(out), threads=1,
        )  # fmt: skip
        found.append(out.cpu())
    assert torch.equal(*found)
    assert 0 < int((found[0] != 0).sum()) < base.numel()
