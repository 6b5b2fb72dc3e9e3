"""Order statistics by integer keys: a key's integer order is the float's, with −0 before +0 and every NaN last."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from sta_kernels.kernels.reference.dtypes import Array

NAN_KEY = 0xFFFFFFFF
"""Key of every float32 NaN."""

_DIGIT_BITS = 16


def order_statistic_literal(values: Array, k: int) -> float:
    """k-th smallest value (1-based) by sorting; NaN last.

    Args:
        values: any shape.
        k: 1..n.

    Returns:
        The value.
    """
    return float(np.sort(np.asarray(values).reshape(-1))[k - 1])


def keys_exact(values: Array) -> Array:
    """Order-preserving keys: the sign bit flipped, or all bits of a negative; every NaN all ones.

    Args:
        values: float32 or float64, any shape.

    Returns:
        uint32 or uint64, same shape.
    """
    unsigned = np.uint32 if values.dtype == np.float32 else np.uint64
    bits: Array = values.view(unsigned)
    sign = unsigned(1 << (8 * values.dtype.itemsize - 1))
    keys = np.where(bits & sign, ~bits, bits | sign)
    return np.where(np.isnan(values), ~unsigned(0), keys)


def value_of_key_exact(key: int, dtype: type[np.float32] | type[np.float64] = np.float32) -> float:
    """The value that has a key: inverse of :func:`keys_exact`.

    Args:
        key: in the range of the dtype's keys.
        dtype: of the value.

    Returns:
        The value; NaN for the key of all ones.
    """
    width = 8 * np.dtype(dtype).itemsize
    if key == (1 << width) - 1:
        return float("nan")
    sign = 1 << (width - 1)
    bits = key ^ sign if key & sign else key ^ ((1 << width) - 1)
    return float(np.array(bits, f"u{width // 8}").view(dtype))


def digit_counts_exact(keys: Array, prefix: int, prefix_bits: int, digit_bits: int) -> Array:
    """How often each next digit follows a prefix.

    Args:
        keys: uint32 or uint64, [n].
        prefix: the keys' leading ``prefix_bits`` bits, as an integer.
        prefix_bits: 0 or more.
        digit_bits: 1 or more; ``prefix_bits + digit_bits`` is at most the width of a key.

    Returns:
        uint64 [2**digit_bits].
    """
    width = 8 * keys.dtype.itemsize
    if prefix_bits:  # a shift by the whole width is undefined
        keys = keys[keys >> keys.dtype.type(width - prefix_bits) == keys.dtype.type(prefix)]
    digits = (keys >> keys.dtype.type(width - prefix_bits - digit_bits)) & keys.dtype.type((1 << digit_bits) - 1)
    return np.bincount(digits.astype(np.intp), minlength=1 << digit_bits).astype(np.uint64)


def select_key_exact(chunks: Callable[[], Iterable[Array]], width: int, k: int) -> int:
    """k-th smallest key (1-based) by radix selection, most significant digit first.

    Args:
        chunks: returns all keys, some at a time; called once per digit.
        width: bits of a key, a multiple of 16.
        k: 1..n.

    Returns:
        The key.
    """
    prefix = 0
    for prefix_bits in range(0, width, _DIGIT_BITS):
        counts = np.zeros(1 << _DIGIT_BITS, np.uint64)
        for keys in chunks():
            counts += digit_counts_exact(keys, prefix, prefix_bits, _DIGIT_BITS)
        cumulative = np.cumsum(counts)
        digit = int(np.searchsorted(cumulative, np.uint64(k)))
        k -= int(cumulative[digit - 1]) if digit else 0
        prefix = prefix << _DIGIT_BITS | digit
    return prefix
