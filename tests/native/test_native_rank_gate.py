"""Rank gates: the native core's bits are the reference's, whatever the rows, dtypes, layouts, tiles and threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_cases import poisoned, same_bits, stored

from sta_kernels.kernels.buffers import Buffer, DType
from sta_kernels.kernels.formula import Formula, FormulaSource
from sta_kernels.kernels.native import NativeBackend
from sta_kernels.kernels.numpy_backend import NumpyBackend

WHOLE = 1 << 32
CHANCES = {
    "spread": (WHOLE // 4, 3 * WHOLE // 4),
    "uneven": (3, WHOLE - 1),
    "even": (WHOLE // 3, WHOLE // 3),
    "none": (0, 0),
    "all": (WHOLE, WHOLE),
}
ROWS = [(1, 9), (2, 5), (31, 50), (33, 41), (500, 9), (4099, 3), (70_001, 2)]


def operands(size: int, kind: str, dtypes: tuple[DType, DType] = (DType.F32, DType.F32)) -> list[Buffer]:
    rng = np.random.default_rng(size)
    values = rng.standard_normal((2, size), np.float32)
    if kind == "ties":
        values = np.round(values)
    elif kind == "edges":
        values[0] = np.where(rng.random(size) < 0.5, 0, np.float32(1e-42))
        values[1] = rng.choice(np.float32([0, -0.0, 1e-42, -1e-42, np.inf, -np.inf, np.nan, -np.nan]), size)
    return [Buffer.from_numpy(stored(row, dtype), dtype) for row, dtype in zip(values, dtypes, strict=True)]


def gate(
    backend: Any, base: Buffer, model: Buffer, row: int, chances: tuple[int, int], threads: int = 1, **parameters: Any
) -> np.ndarray[Any, Any]:
    out, buffer = poisoned(base.size, DType.F32)
    numbers = {"scaled": False, "seed": (1 << 63) + 5, "tensor": 0xFFFFFFFF, "task": 3, "offset": 13, **parameters}
    backend.rank_gate(base, model, row=row, chances=chances, out=buffer, threads=threads, **numbers)
    return out


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("chances", CHANCES)
@pytest.mark.parametrize("kind", ["plain", "ties", "edges"])
def test_bits(native: NativeBackend, reference: NumpyBackend, kind: str, chances: str, scaled: bool) -> None:
    for row, rows in ROWS:
        base, model = operands(row * rows, kind)
        given = (base, model, row, CHANCES[chances])
        want = gate(reference, *given, scaled=scaled)
        assert same_bits(gate(native, *given, scaled=scaled), want), row
        assert same_bits(gate(native, *given, scaled=scaled, threads=5), want), row


@pytest.mark.parametrize("tile", [64, 192, 4096])
@pytest.mark.parametrize("dtypes", [(DType.BF16, DType.F32), (DType.F64, DType.F16), (DType.F16, DType.BF16)], ids=str)
def test_dtypes_and_tiles(isa: str, reference: NumpyBackend, dtypes: tuple[DType, DType], tile: int) -> None:
    base, model = operands(37 * 211, "ties", dtypes)
    for row in (37, 211):
        given = (base, model, row, CHANCES["spread"])
        assert same_bits(gate(NativeBackend(isa, tile), *given), gate(reference, *given))


def test_strided_operands(native: NativeBackend, reference: NumpyBackend) -> None:
    values = np.random.default_rng(2).standard_normal((2, 90, 64), np.float32)
    base, model = (Buffer.from_numpy(value[::2, 1::3]) for value in values)
    given = (base, model, base.shape[1], CHANCES["spread"])
    want = gate(reference, *given)
    assert same_bits(gate(native, *given), want)
    dense = [Buffer.from_numpy(np.ascontiguousarray(buffer.numpy())) for buffer in (base, model)]
    assert same_bits(gate(native, *dense, *given[2:]), want)


def test_rows_do_not_depend_on_what_stands_beside_them(native: NativeBackend) -> None:
    base, model = operands(12 * 300, "plain")
    whole = gate(native, base, model, 300, CHANCES["spread"], offset=0)
    for start in (0, 300, 2700):
        stop = start + 900
        part = gate(native, base.slice(start, stop), model.slice(start, stop), 300, CHANCES["spread"], offset=start)
        assert same_bits(part, whole[start:stop])


@pytest.mark.parametrize("n_models", [1, 3, 9])
@pytest.mark.parametrize("variant", [(3, 0, 0), (3, 1, 1)])
def test_masks_multiply(
    native: NativeBackend, reference: NumpyBackend, variant: tuple[int, ...], n_models: int
) -> None:
    rng = np.random.default_rng(n_models)
    base, *models = (Buffer.from_numpy(row) for row in rng.standard_normal((n_models + 1, 1003), np.float32))
    masks = [Buffer.from_numpy(rng.choice(np.float32([0, -0.0, 1, 1.7]), 1003)) for _ in models]
    rows = tuple((0.3 * i - 0.7, 1.1, np.inf, -1.0) for i in range(n_models))
    integers = (0, 0, *(0, 0, WHOLE, 0) * n_models)
    source = FormulaSource(
        Formula("sparse_sum", variant, (0.9, 1.5, 1.0), rows, integers), tuple(models), base, tuple(masks)
    )
    results = []
    for backend in (native, reference):
        out, buffer = poisoned(1003, DType.F32)
        backend.evaluate(source, out=buffer, threads=2)
        results.append(out)
    assert same_bits(*results)


@pytest.mark.parametrize(
    ("row", "chances"),
    [(0, (0, 1)), (7, (0, 1)), (-5, (0, 1)), (5, (2, 1)), (5, (-1, 1)), (5, (0, WHOLE)), (5, (WHOLE + 1,) * 2)],
)
def test_what_is_no_gate_is_refused(
    native: NativeBackend, reference: NumpyBackend, row: int, chances: tuple[int, int]
) -> None:
    base, model = operands(50, "plain")
    for backend in (native, reference):
        with pytest.raises(ValueError, match="expected"):
            gate(backend, base, model, row, chances)


def test_nothing(native: NativeBackend) -> None:
    empty = Buffer.from_numpy(np.empty(0, np.float32))
    assert gate(native, empty, empty, 5, CHANCES["spread"]).size == 0
