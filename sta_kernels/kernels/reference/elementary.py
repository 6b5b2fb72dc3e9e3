"""exp and tanh as fixed sequences of float32 operations, so that every backend gives the same bits.

Products and sums are rounded one by one. Over their ranges both are within 2 ULP of the true value, which the tests
check on every exponent.
"""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.dtypes import Array

LEAST_EXPONENT = np.float32(-87.0)
"""Arguments of :func:`exp_exact` below it count as it: the result stays a normal number."""
_LOG2E = np.float32(1.44269502)
_LN2_HIGH = np.float32(0.693359375)
"""Has few bits, so that its product with any exponent is exact."""
_LN2_LOW = np.float32(-2.12194440e-4)
_ROUNDER = np.float32(12582912.0)
"""1.5·2²³: adding it rounds to an integer, which then stands in the low bits."""
_EXP = tuple(np.float32(c) for c in (1.98910798e-4, 1.39337312e-3, 8.33331048e-3, 4.16664630e-2, 1.66666672e-1, 0.5))
"""(exp(r) − 1 − r)/r², interpolated at the Chebyshev points of ±ln2/2, highest power first."""
_TANH = tuple(np.float32(c) for c in (-6.09464152e-3, 2.09957547e-2, -5.38506098e-2, 1.33327678e-1, -3.33333284e-1))
"""(tanh(x) − x)/x³ in x², interpolated at the Chebyshev points of x² in [0, 0.391], highest power first."""
_TANH_UNIT = tuple(
    np.float32(c)
    for c in (
        -4.20695491e-4,
        2.51045940e-3,
        -8.21892172e-3,
        2.16601156e-2,
        -5.39347902e-2,
        1.33331284e-1,
        -3.33333313e-1,
    )
)
"""The same for x² in [0, 1]."""
_TANH_SMALL = np.float32(0.625)
_TANH_ONE = np.float32(9.1)
"""From here on tanh rounds to 1."""


def _horner(x: Array, coefficients: tuple[np.float32, ...]) -> Array:
    value = coefficients[0]
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return np.asarray(value)


def exp_exact(x: Array) -> Array:
    """``exp(x)`` for x in [−87, 88]; smaller arguments count as −87.

    Args:
        x: float32 [n].

    Returns:
        float32 [n].
    """
    x = np.maximum(x, LEAST_EXPONENT)
    rounded = x * _LOG2E + _ROUNDER
    exponent = rounded - _ROUNDER
    remainder = (x - exponent * _LN2_HIGH) - exponent * _LN2_LOW
    value = _horner(remainder, _EXP) * (remainder * remainder) + remainder + np.float32(1)
    steps = rounded.view(np.int32) - _ROUNDER.view(np.int32)
    return value * ((steps + 127) << 23).view(np.float32)


def tanh_exact(x: Array) -> Array:
    """``tanh(x)``: an odd polynomial below 0.625, ``1 − 2/(exp(2|x|) + 1)`` up to 9.1, ±1 from there.

    Args:
        x: float32 [n].

    Returns:
        float32 [n]; the sign of x, −0 included.
    """
    size = np.abs(x)
    square = size * size
    small = size + size * (square * _horner(square, _TANH))
    bounded = np.minimum(size, _TANH_ONE)
    large = np.float32(1) - np.float32(2) / (exp_exact(bounded + bounded) + np.float32(1))
    # Asked in this order, a NaN comes out as one.
    value = np.where(size >= _TANH_ONE, np.float32(1), np.where(size >= _TANH_SMALL, large, small))
    return np.copysign(value, x)


def tanh_unit_exact(x: Array) -> Array:
    """``tanh(x)`` for x in [−1, 1]: an odd polynomial.

    Args:
        x: float32 [n].

    Returns:
        float32 [n]; of −0 it is +0.
    """
    square = x * x
    return x + x * (square * _horner(square, _TANH_UNIT))
