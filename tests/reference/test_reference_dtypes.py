"""Storage formats: every pattern of the 16-bit ones, and the roundings that a conversion can get wrong."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sta_kernels.kernels.reference import dtypes

ALL_16_BITS = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)


def from_bits(*bits):
    return np.array(bits, np.uint32).view(np.float32)


def test_every_bfloat16_survives_the_round_trip():
    wide = dtypes.bfloat16_to_float32(ALL_16_BITS)
    back = dtypes.float32_to_bfloat16(wide)
    quiet = np.where(np.isnan(wide), ALL_16_BITS | 0x40, ALL_16_BITS)
    assert np.isnan(wide).sum() == 2 * 127
    np.testing.assert_array_equal(back, quiet)


def test_every_float16_survives_the_round_trip():
    wide = dtypes.float16_to_float32(ALL_16_BITS.view(np.float16))
    back = dtypes.float32_to_float16(wide).view(np.uint16)
    quiet = np.where(np.isnan(wide), ALL_16_BITS | 0x200, ALL_16_BITS)
    assert np.isnan(wide).sum() == 2 * 1023
    assert (wide.view(np.uint32)[np.isnan(wide)] & 0x400000).all()
    np.testing.assert_array_equal(back, quiet)


@pytest.mark.parametrize(("bits", "expected"), [(0x7F800001, 0x7E00), (0xFFA00000, 0xFF00)])
def test_a_signalling_nan_becomes_quiet_in_float16(bits, expected):
    assert dtypes.float32_to_float16(from_bits(bits)).view(np.uint16)[0] == expected


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (0x3F808000, 0x3F80),  # tie, even below
        (0x3F818000, 0x3F82),  # tie, even above
        (0x3F808001, 0x3F81),
        (0x3F807FFF, 0x3F80),
        (0x7F7F7FFF, 0x7F7F),  # greatest that stays finite
        (0x7F7F8000, 0x7F80),
        (0xFF7FFFFF, 0xFF80),
        (0x80000000, 0x8000),
        (0x00000001, 0x0000),
        (0x00008001, 0x0001),  # subnormal
        (0x7F800001, 0x7FC0),  # a signalling NaN whose payload lies below
        (0xFFFFFFFF, 0xFFFF),  # where adding the rounding would wrap around
    ],
)
def test_bfloat16_rounding(bits, expected):
    assert dtypes.float32_to_bfloat16(from_bits(bits))[0] == expected


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_bfloat16_rounding_is_to_the_nearest(value):
    rounded = int(dtypes.float32_to_bfloat16(np.array([value], np.float32))[0])
    if rounded & 0x7FFF == 0x7F80:  # infinity stands for the next power of two
        nearest = Fraction(2) ** 128 * (-1 if rounded & 0x8000 else 1)
    else:
        nearest = as_fraction(rounded)
    distance = abs(nearest - Fraction(value))
    for neighbour in (rounded - 1, rounded + 1):
        if 0 <= neighbour & 0x7FFF < 0x7F80 and neighbour & 0x8000 == rounded & 0x8000:
            other = abs(as_fraction(neighbour) - Fraction(value))
            assert distance < other or (distance == other and rounded % 2 == 0)


def as_fraction(bits):
    return Fraction(float(dtypes.bfloat16_to_float32(np.array([bits], np.uint16))[0]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (65519.996, 65504.0),
        (65520.0, np.inf),
        (1 + 2**-11, 1.0),
        (1 + 3 * 2**-11, 1 + 2**-9),
        (2**-25, 0.0),
        (1.5 * 2**-25, 2**-24),
        (-(2**-14) + 2**-25, -(2**-14)),
    ],
)
def test_float16_rounding(value, expected):
    with np.errstate(over="ignore"):
        assert dtypes.float32_to_float16(np.array([value], np.float32))[0] == np.float16(expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1 + 2**-24, 1.0),
        (1 + 3 * 2**-24, 1 + 2**-22),
        (1e300, np.inf),
        (2.0**-150, 0.0),
        (1.5 * 2.0**-150, 2.0**-149),
        (-0.0, -0.0),
    ],
)
def test_float64_is_narrowed_once(value, expected):
    with np.errstate(over="ignore", under="ignore"):
        narrow = dtypes.float64_to_float32(np.array([value]))
    assert narrow.tobytes() == np.float32(expected).tobytes()
    assert dtypes.float32_to_float64(narrow)[0] == expected
