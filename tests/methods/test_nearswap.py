"""Nearswap: whole within t, moved by t beyond."""

from __future__ import annotations

import numpy as np
import pytest
from merged_arrays import drawn, merged, same_on_all

from sta_kernels import methods
from sta_kernels.kernels.reference.literal.nearswap import nearswap_literal


def test_within_t_the_model_and_beyond_it_a_step_of_t():
    base = np.zeros(6)
    model = np.array((0.25, -0.5, 0.75, -2, 0.5, 0))
    np.testing.assert_array_equal(same_on_all("nearswap", base, [model], t=0.5), (0.25, -0.5, 0.5, -0.5, 0.5, 0))


@pytest.mark.parametrize("t", [1e-7, 1e-6, 1e-3, 0.02, 0.1, 10])
def test_the_oracle_agrees(t: float):
    base = drawn(100_000, scale=0.05)
    model = (base + drawn(100_000, seed=1, scale=0.02)).astype(np.float32).astype(np.float64)
    model[:1000] = np.float32(base[:1000] * (1 + 1e-7))  # below the least difference
    want = nearswap_literal(base, model, t)
    got = same_on_all("nearswap", base, [model], t=t)
    assert (np.abs(got - want) <= 2 * np.spacing(np.maximum(np.abs(base), np.abs(model)).astype(np.float32))).all()


@pytest.mark.parametrize("t", [0, -0.5])
def test_nothing_is_near_without_a_distance(t: float):
    base = drawn(2, 30)[0]
    base[3] = -0.0
    got = same_on_all("nearswap", base, [drawn(30, seed=1)], t=t)
    np.testing.assert_array_equal(got.view(np.uint32), np.float32(base).view(np.uint32))


def test_float64_stays_where_the_models_agree():
    base = np.random.default_rng(0).normal(size=9)
    np.testing.assert_array_equal(merged("nearswap", base, [base], out_dtype=np.float64, t=0.1), base)


def test_no_statistics_and_the_first_tier():
    method = methods.get("nearswap")
    assert method.tier == "A"
    assert method.models == (1, 1)
