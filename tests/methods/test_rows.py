"""Sums along rows in a stated order, and factors spread over them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from merged_arrays import drawn

from sta_kernels.kernels import get_backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.methods import rows
from sta_kernels.methods.base import Operands


def in_the_stated_order(values: np.ndarray) -> float:
    lanes = [0.0] * 32
    for i, value in enumerate(values.tolist()):
        lanes[i % 32] += value
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [lanes[i] + lanes[i + half] for i in range(half)]
    return lanes[0]


@pytest.mark.parametrize("width", [1, 31, 32, 33, 1000, 5000])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_rows_are_summed_in_32_lanes(count: int, width: int):
    values = np.random.default_rng(width).lognormal(0, 8, (count, width)).astype(np.float32)
    got = rows.row_sums(values)
    assert got.tolist() == [in_the_stated_order(row) for row in values]
    np.testing.assert_allclose(got, [math.fsum(row.tolist()) for row in values], rtol=1e-12)


@pytest.mark.parametrize("axis", [-1, 0])
def test_how_much_is_read_at_once_changes_no_bit(axis: int, monkeypatch: pytest.MonkeyPatch):
    models = np.float32(drawn(2, 40, 70))
    operands = Operands(tuple(map(Buffer.from_numpy, models)))

    def grams() -> bytes:
        return rows.row_gram(get_backend("native"), operands, (0, 1), (40, 70), axis, centred=False).tobytes()

    want = grams()
    for chunk in (1, 100, 1000):
        monkeypatch.setattr(rows, "CHUNK", chunk)
        assert grams() == want


def test_row_grams_read_strided_operands():
    wide = np.float32(drawn(2, 70, 40))
    operands = Operands(tuple(Buffer.from_numpy(model.T) for model in wide))
    got = rows.row_gram(get_backend("native"), operands, (0, 1), (40, 70), -1, centred=False)
    np.testing.assert_allclose(got, np.einsum("ikr,jkr->ijr", wide, wide, dtype=np.float64), rtol=1e-5, atol=1e-5)


def test_spread_takes_no_room():
    like = Buffer.from_torch(torch.zeros(3, 5))
    row, column = (rows.spread(np.arange(n), (3, 5), axis, like) for n, axis in ((3, -1), (5, 0)))
    assert row.strides == (4, 0)
    assert column.strides == (0, 4)
    np.testing.assert_array_equal(row.numpy(), np.arange(3)[:, None] * np.ones(5))
    np.testing.assert_array_equal(column.numpy(), np.arange(5) * np.ones((3, 1)))
