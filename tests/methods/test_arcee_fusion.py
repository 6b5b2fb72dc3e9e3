"""Arcee Fusion: what stands out, by exact quartiles, and a divergence that float32 would drown."""

from __future__ import annotations

import numpy as np
import pytest
from merged_arrays import drawn, merged, same_on_all

from sta_kernels import methods
from sta_kernels.kernels.reference.literal.arcee_fusion import arcee_fusion_literal, divergence_literal
from sta_kernels.methods.base import Place
from sta_kernels.methods.divergence import divergence, exp, log


def test_what_stands_out_is_taken():
    """Quartiles are entries 1, 3 and 5: in units of K the threshold is 4 + 1.5·(6 − 2) = 10."""
    base, model = np.zeros(8), np.array((1, -2, 3, 4, -5, 6, -11, 9.5))
    np.testing.assert_array_equal(same_on_all("arcee_fusion", base, [model]), (0, 0, 0, 0, 0, 0, -11, 0))


def test_where_all_change_alike_all_is_taken():
    base, model = np.zeros((2, 4)), np.full((2, 4), 0.25)
    np.testing.assert_array_equal(same_on_all("arcee_fusion", base, [model]), model)


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("shape", [(100_000,), (250, 400), (1000, 100), (7, 5, 3, 11), (1, 9), (9, 1), (40, 3)])
def test_the_oracle_agrees(shape: tuple[int, ...], scale: float):
    base = drawn(*shape, scale=0.05)
    model = (base + drawn(*shape, seed=1, scale=scale) * drawn(*shape, seed=2) ** 3).astype(np.float32)
    model = model.astype(np.float64)
    want = arcee_fusion_literal(base, model)
    got = same_on_all("arcee_fusion", base, [model])
    differ = np.abs(got - want) > 2e-7 * np.maximum(np.abs(base), np.abs(model))
    # I is float32 here: an entry within rounding of the threshold may fall on the other side.
    assert differ.sum() <= 2
    if base.size > 100:
        assert 0.001 < np.mean(want != base) < 0.5


def test_a_scalar_and_an_empty_tensor():
    assert same_on_all("arcee_fusion", np.float32(1), [np.float32(2)]) == 2
    assert merged("arcee_fusion", np.zeros((0, 4)), [np.zeros((0, 4))]).shape == (0, 4)


def test_it_takes_whole_tensors_one_model_and_no_parameters():
    method = methods.get("arcee_fusion")
    assert method.models == (1, 1)
    assert not method.parameters
    assert method.in_one_piece(methods.resolve(method, 1), Place.alone((3, 4)), False)
    assert method.workspace(Place.alone((1000, 100_000)), 1) < 30 << 20


def test_divergence_of_a_small_change():
    """In float32, rounding alone is more."""
    base = drawn(5, 3000, scale=0.02)
    other = (base + drawn(5, 3000, seed=1, scale=1e-4)).astype(np.float32)
    want = divergence_literal(base, other.astype(np.float64))[:, 0]
    assert want.max() < 1e-8
    np.testing.assert_allclose(divergence(np.float32(base), other), want, rtol=1e-6)
    assert np.abs(divergence_literal(np.float32(base), other)[:, 0] - want).max() > 1e-8


def test_divergence_of_rows_far_apart():
    pair = np.array((((0, 100, -300, 5), (1, 1, 1, 1)), ((80, 0, 0, 0), (1, 1, 1, 1))), np.float64)
    np.testing.assert_allclose(divergence(*np.float32(pair)), divergence_literal(*pair)[:, 0], rtol=1e-12, atol=1e-15)


def test_exp_and_log_are_those_of_mathematics():
    x = np.concatenate((np.linspace(-700, 0, 20_001), -np.logspace(-18, 2, 5_000)))
    np.testing.assert_allclose(exp(x), np.exp(x), rtol=1e-15)
    assert exp(np.array((0.0, -1e4))).tolist() == [1.0, exp(np.array(-700.0))]
    y = np.concatenate((np.logspace(-300, 300, 20_001), 1 + np.linspace(-1e-3, 1e-3, 5_000)))
    np.testing.assert_allclose(log(y), np.log(y), rtol=2e-15)
    assert log(np.array((1.0, 2.0))).tolist() == [0.0, np.log(2.0)]
