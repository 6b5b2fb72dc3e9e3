"""Kullback-Leibler divergence of softmaxes, in float64 with the same bits everywhere: exp and log of our own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sta_kernels.kernels.reference.environment import ieee_arithmetic
from sta_kernels.methods.rows import row_sums

Array = np.ndarray[Any, Any]

_SMOOTH = 1e-8
_LOG2E = 1 / math.log(2)
_LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")
"""Has so few bits that its product with any exponent is exact."""
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_EXP = tuple(1 / math.factorial(k) for k in range(14, -1, -1))
"""Taylor's series, highest power first: below 1e-18 of the value for |x| ≤ ln2/2."""
_LOG = tuple(2 / (2 * k + 1) for k in range(11, -1, -1))
"""log((1 + s)/(1 − s))/s in s², highest power first: as near for the |s| ≤ 0.172 of a mantissa in [√½, √2]."""


def exp(x: Array) -> Array:
    """``exp(x)`` for x in [−700, 0]; smaller arguments count as −700.

    Args:
        x: float64, any shape.

    Returns:
        float64, same shape, within 2 ULP.
    """
    x = np.maximum(x, -700.0)
    exponent = np.rint(x * _LOG2E)
    remainder = (x - exponent * _LN2_HIGH) - exponent * _LN2_LOW
    return np.asarray(np.ldexp(_horner(remainder, _EXP), exponent.astype(np.int32)))


def log(x: Array) -> Array:
    """``log(x)`` of positive normal numbers.

    Args:
        x: float64, any shape.

    Returns:
        float64, same shape, within 3 ULP.
    """
    mantissa, exponent = np.frexp(x)
    low = mantissa < math.sqrt(0.5)
    mantissa = np.where(low, 2 * mantissa, mantissa)
    exponent = exponent - low
    s = (mantissa - 1) / (mantissa + 1)
    return np.asarray(exponent * _LN2_HIGH + (s * _horner(s * s, _LOG) + exponent * _LN2_LOW))


def _horner(x: Array, coefficients: tuple[float, ...]) -> Array:
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value *= x
        value += coefficient
    return value


@ieee_arithmetic()
def divergence(base: Array, other: Array) -> Array:
    """``K = Σ p·log(p/q)`` per row, p and q the softmaxes of the other and the base, 1e-8 added to each.

    Args:
        base: float32 [rows, width].
        other: same shape.

    Returns:
        float64 [rows].
    """
    p, q = _softmax(other) + _SMOOTH, _softmax(base) + _SMOOTH
    return row_sums(p * log(p / q))


def _softmax(values: Array) -> Array:
    values = values.astype(np.float64)
    powers = exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / row_sums(powers)[:, None])
