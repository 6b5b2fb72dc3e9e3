"""exp and tanh: within 2 ULP of the true values on every exponent, and exact where that is promised."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.reference.elementary import exp_exact, tanh_exact, tanh_unit_exact
from sta_kernels.kernels.reference.environment import ieee_arithmetic

MANTISSAS = np.unique(np.concatenate((np.random.default_rng(0).integers(0, 1 << 23, 2000), [0, 1, (1 << 23) - 1])))


def floats_of_exponent(exponent):
    """Positive float32 numbers of one biased exponent, 0 for subnormals."""
    return (np.uint32(exponent) << np.uint32(23) | MANTISSAS.astype(np.uint32)).view(np.float32)


def ulps(found, true):
    """Errors in units of the true value's last place as a float32."""
    return np.abs(found.astype(np.float64) - true) / np.spacing(np.abs(true).astype(np.float32)).astype(np.float64)


@pytest.mark.parametrize("sign", [1, -1])
def test_exp_on_every_exponent(sign):
    worst = 0.0
    for exponent in range(0, 127 + 7):
        x = floats_of_exponent(exponent) * np.float32(sign)
        x = x[(x >= -87) & (x <= 88)]
        if x.size:
            worst = max(worst, ulps(exp_exact(x), np.exp(x.astype(np.float64))).max())
    assert worst <= 2


@pytest.mark.parametrize("sign", [1, -1])
@ieee_arithmetic()
def test_tanh_on_every_exponent(sign):
    for exponent in range(0, 255):
        x = floats_of_exponent(exponent) * np.float32(sign)
        found = tanh_exact(x)
        assert ulps(found, np.tanh(x.astype(np.float64))).max() <= 2
        assert np.array_equal(np.signbit(found), np.signbit(x))


@pytest.mark.parametrize("sign", [1, -1])
@ieee_arithmetic()
def test_tanh_of_the_unit_interval_on_every_exponent(sign):
    for exponent in range(0, 128):
        x = floats_of_exponent(exponent) * np.float32(sign)
        x = x[np.abs(x) <= 1]
        found = tanh_unit_exact(x)
        assert ulps(found, np.tanh(x.astype(np.float64))).max() <= 2
        assert np.array_equal(np.signbit(found), np.signbit(x) & (x != 0))


def test_where_tanh_changes_its_formula():
    for edge in (0.625, 9.1):
        x = np.float32(edge) + np.arange(-50, 51).astype(np.float32) * np.spacing(np.float32(edge))
        assert ulps(tanh_exact(x), np.tanh(x.astype(np.float64))).max() <= 2


def test_exp_below_its_range_is_its_least():
    least = exp_exact(np.float32([-87]))
    assert least[0] >= np.finfo(np.float32).tiny
    assert exp_exact(np.float32([-87.5, -1e30, -np.inf])).tolist() == 3 * least.tolist()
    assert exp_exact(np.float32([0, -0.0])).tolist() == [1, 1]


def test_nan_stays_and_infinity_saturates():
    with ieee_arithmetic():
        assert np.isnan(exp_exact(np.float32([np.nan]))).all()
        assert np.isnan(tanh_exact(np.float32([np.nan]))).all()
        infinite = tanh_exact(np.float32([np.inf, -np.inf, 0.0, -0.0]))
    assert infinite.tolist() == [1, -1, 0, 0]
