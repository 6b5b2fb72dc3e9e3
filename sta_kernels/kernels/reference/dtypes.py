"""Storage formats to and from float32, in the roundings that every kernel reproduces.

bfloat16 is carried as ``uint16``. Float32 is the arithmetic type: wider storage is narrowed on reading (rounded to
nearest even), narrower storage widened (exact), and results are rounded once on writing. Every conversion to or from
float16 and every rounding to bfloat16 quiets a NaN, as the processors' instructions do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_QUIET_F32 = 0x00400000
_QUIET_F16 = 0x7E00
_QUIET_BF16 = 0x0040


def bfloat16_to_float32(bits: Array) -> Array:
    """Widen bfloat16 to float32; exact.

    Args:
        bits: uint16, any shape.

    Returns:
        float32 of the same shape.
    """
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bfloat16(values: Array) -> Array:
    """Round float32 to bfloat16, nearest even, in integer arithmetic.

    Args:
        values: float32, any shape.

    Returns:
        uint16 of the same shape; a NaN keeps its upper bits and becomes quiet.
    """
    bits = values.view(np.uint32)
    # Half a unit less one, plus the last kept bit: ties go to even; a carry past the largest finite value is infinity.
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), (bits >> 16) | _QUIET_BF16, rounded).astype(np.uint16)


def float16_to_float32(values: Array) -> Array:
    """Widen float16 to float32; exact.

    Args:
        values: float16, any shape.

    Returns:
        float32 of the same shape.
    """
    wide = values.astype(np.float32)
    wide.view(np.uint32)[np.isnan(wide)] |= _QUIET_F32
    return wide


def float32_to_float16(values: Array) -> Array:
    """Round float32 to float16, nearest even; values from 65,520 on become infinity.

    Args:
        values: float32, any shape.

    Returns:
        float16 of the same shape.
    """
    narrow = values.astype(np.float16)
    is_nan = np.isnan(values)
    bits = values.view(np.uint32)[is_nan]
    # Spelt out: NumPy keeps a signalling NaN signalling, and alters the payload of one whose upper bits are zero.
    narrow.view(np.uint16)[is_nan] = (bits >> 16 & 0x8000) | _QUIET_F16 | (bits >> 13 & 0x03FF)
    return narrow


def float64_to_float32(values: Array) -> Array:
    """Narrow float64 to float32, nearest even; beyond its range, infinity.

    Args:
        values: float64, any shape.

    Returns:
        float32 of the same shape.
    """
    return values.astype(np.float32)


def float32_to_float64(values: Array) -> Array:
    """Widen float32 to float64; exact.

    Args:
        values: float32, any shape.

    Returns:
        float64 of the same shape.
    """
    return values.astype(np.float64)
