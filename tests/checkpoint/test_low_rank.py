"""What it takes to read a weight with a LoRA adapter: factors are read about once, however the weight is asked for."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sta_kernels.checkpoint import low_rank
from sta_kernels.checkpoint.entry import TensorEntry
from sta_kernels.checkpoint.low_rank import LowRank, Matrix, Panels

Array = np.ndarray[Any, Any]


class Factor:
    """A factor in memory that counts what is read of it."""

    def __init__(self, generator: np.random.Generator, rows: int, columns: int) -> None:
        self.values = generator.standard_normal((rows, columns), np.float32)
        self.reads = 0
        self.bytes = 0
        entry = TensorEntry("factor", "F32", self.values.shape, self.values.nbytes, Path("file"))
        self.matrix = Matrix(entry, self._read, rows, columns)

    def _read(self, entry: TensorEntry, start: int, view: memoryview) -> None:
        self.reads += 1
        self.bytes += len(view)
        view[:] = self.values.tobytes()[start : start + len(view)]


def pair(rank: int, inputs: int, outputs: int, transposed: bool) -> tuple[Factor, Factor, LowRank, Array]:
    """Factors, their product as it is read, and, entry by entry in the order of k, what it must be."""
    generator = np.random.default_rng(5)
    a, b = Factor(generator, rank, inputs), Factor(generator, outputs, rank)
    total = np.zeros((outputs, inputs), np.float32)
    for k in range(rank):
        total += np.multiply.outer(b.values[:, k], a.values[k])
    total *= np.float32(1.7)
    return a, b, LowRank(a.matrix, b.matrix, transposed, 1.7), total.T if transposed else total


def in_tiles(added: LowRank, size: int, step: int) -> Array:
    values = np.zeros(size, np.float32)
    for start in range(0, size, step):
        added.add(values[start : start + step], start)
    return values


@pytest.fixture(autouse=True)
def panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_rank, "PANELS", Panels(8 << 20))


@pytest.mark.parametrize("transposed", [False, True])
def test_factors_are_read_once_by_tiles_and_blocks(transposed: bool):
    a, b, added, want = pair(16, 600, 500, transposed)
    assert in_tiles(added, 300_000, 7_000).tobytes() == want.tobytes()
    assert a.bytes + b.bytes == a.values.nbytes + b.values.nbytes
    assert a.reads + b.reads == 2


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("panel", "limit"), [(1, 0), (40, 0), (100, 900), (700, 20_000)])
def test_bits_do_not_depend_on_what_is_kept(transposed: bool, panel: int, limit: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(low_rank, "PANEL", panel)
    monkeypatch.setattr(low_rank, "BLOCK", 50)
    monkeypatch.setattr(low_rank, "PANELS", Panels(limit))
    _, _, added, want = pair(7, 33, 21, transposed)
    for step in (5, 64, 693):
        assert in_tiles(added, want.size, step).tobytes() == want.tobytes()


def test_where_nothing_can_be_kept_a_wide_factor_is_read_once_per_tile(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(low_rank, "PANEL", 16 * 64)
    monkeypatch.setattr(low_rank, "PANELS", Panels(0))
    a, _, added, want = pair(16, 640, 500, False)
    assert in_tiles(added, want.size, 640 * 100).tobytes() == want.tobytes()
    assert a.bytes == 5 * a.values.nbytes


def test_what_is_kept_is_bounded_and_goes_with_its_factor():
    kept = Panels(100)
    _, _, added, _ = pair(1, 2, 2, False)
    made: list[tuple[Matrix, int]] = []

    def get(factor: Matrix, index: int) -> None:
        def make() -> Array:
            made.append((factor, index))
            return np.zeros(10, np.float32)

        kept.get(factor, index, make)

    for index in (0, 1, 0, 2, 0, 1):
        get(added.a, index)
    assert [index for _, index in made] == [0, 1, 2, 1]  # what was used last stays
    get(added.b, 0)
    kept.forget([added.a])
    get(added.b, 0)
    get(added.a, 1)
    assert made[4:] == [(added.b, 0), (added.a, 1)]


def test_threads_share_what_is_kept():
    a, b, added, want = pair(16, 600, 500, False)
    found: list[Array] = []
    threads = [threading.Thread(target=lambda: found.append(in_tiles(added, want.size, 9_000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [values.tobytes() for values in found] == [want.tobytes()] * 4
    assert a.bytes + b.bytes <= 4 * (a.values.nbytes + b.values.nbytes)
