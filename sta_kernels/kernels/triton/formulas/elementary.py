"""exp and tanh as fixed sequences of float32 operations, product by product and sum by sum.

See :mod:`sta_kernels.kernels.reference.elementary`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sta_kernels.kernels.triton.primitives import greatest, least

_LEAST_EXPONENT: tl.constexpr = tl.constexpr(-87.0)
_LOG2E: tl.constexpr = tl.constexpr(1.44269502)
_LN2_HIGH: tl.constexpr = tl.constexpr(0.693359375)
_LN2_LOW: tl.constexpr = tl.constexpr(-2.12194440e-4)
_ROUNDER: tl.constexpr = tl.constexpr(12582912.0)
_ROUNDER_BITS: tl.constexpr = tl.constexpr(0x4B400000)
_EXP: tl.constexpr = tl.constexpr((1.98910798e-4, 1.39337312e-3, 8.33331048e-3, 4.16664630e-2, 1.66666672e-1, 0.5))
_TANH: tl.constexpr = tl.constexpr((-6.09464152e-3, 2.09957547e-2, -5.38506098e-2, 1.33327678e-1, -3.33333284e-1))
_TANH_UNIT: tl.constexpr = tl.constexpr(
    (
        -4.20695491e-4,
        2.51045940e-3,
        -8.21892172e-3,
        2.16601156e-2,
        -5.39347902e-2,
        1.33331284e-1,
        -3.33333313e-1,
    )
)
_TANH_SMALL: tl.constexpr = tl.constexpr(0.625)
_TANH_ONE: tl.constexpr = tl.constexpr(9.1)


@triton.jit
def _horner(x, COEFFICIENTS: tl.constexpr, COUNT: tl.constexpr):
    value = x * COEFFICIENTS[0] + COEFFICIENTS[1]
    for i in tl.static_range(2, COUNT):
        value = value * x + COEFFICIENTS[i]
    return value


@triton.jit
def exp(x):
    """``exp(x)`` for x in [−87, 88]; smaller arguments count as −87."""
    x = greatest(x, _LEAST_EXPONENT)
    rounded = x * _LOG2E + _ROUNDER
    exponent = rounded - _ROUNDER
    remainder = (x - exponent * _LN2_HIGH) - exponent * _LN2_LOW
    value = _horner(remainder, _EXP, 6) * (remainder * remainder) + remainder + 1.0
    steps = rounded.to(tl.int32, bitcast=True) - _ROUNDER_BITS
    return value * ((steps + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def tanh(x):
    """``tanh(x)``: an odd polynomial below 0.625, ``1 − 2/(exp(2|x|) + 1)`` up to 9.1, ±1 from there."""
    size = tl.abs(x)
    square = size * size
    small = size + size * (square * _horner(square, _TANH, 5))
    bounded = least(size, _TANH_ONE)
    large = 1.0 - tl.div_rn(tl.full(x.shape, 2.0, tl.float32), exp(bounded + bounded) + 1.0)
    value = tl.where(size >= _TANH_ONE, 1.0, tl.where(size >= _TANH_SMALL, large, small))
    sign = x.to(tl.uint32, bitcast=True) & 0x80000000
    return ((value.to(tl.uint32, bitcast=True) & 0x7FFFFFFF) | sign).to(tl.float32, bitcast=True)


@triton.jit
def tanh_unit(x):
    """``tanh(x)`` for x in [−1, 1]: an odd polynomial."""
    square = x * x
    return x + x * (square * _horner(square, _TANH_UNIT, 7))
