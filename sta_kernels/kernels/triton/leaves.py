"""What reductions over a tensor share: the lanes of a tier-B leaf, and a range that programs fold into in any order.

A leaf is 4,096 elements, 128 rows of 32 lanes; each lane adds its 128 elements in order, in float64. A tile of rows of
several leaves, [LEAVES, 32], leaves a thread some neighbouring lanes of one leaf, and with them 128-bit loads.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sta_kernels.kernels.triton.primitives import INTERPRETED, greatest, key, least

LEAF: tl.constexpr = tl.constexpr(4096)
"""Elements per leaf."""

LANES: tl.constexpr = tl.constexpr(32)
"""Chains of additions per leaf."""

_FOLDS: tl.constexpr = tl.constexpr(5)


@triton.jit
def fold_lanes(lanes):
    """Leaf sums of lanes: lane l adds lane l + 16, then l + 8, 4, 2, 1; float64 [LEAVES, 32] to [LEAVES]."""
    for level in tl.static_range(_FOLDS):
        halves = tl.reshape(lanes, [lanes.shape[0], 2, 16 >> level])
        lower, upper = tl.split(tl.permute(halves, (0, 2, 1)))
        lanes = lower + upper
    return tl.reshape(lanes, [lanes.shape[0]])


@triton.jit
def lower_of(a, b):
    """Minimum that a NaN wins, with −0 below +0."""
    if INTERPRETED:  # its minimum takes either zero
        return tl.where(a == b, (_integer(a) | _integer(b)).to(tl.float32, bitcast=True), least(a, b))
    else:
        return least(a, b)


@triton.jit
def higher_of(a, b):
    """Maximum that a NaN wins, with −0 below +0."""
    if INTERPRETED:
        return tl.where(a == b, (_integer(a) & _integer(b)).to(tl.float32, bitcast=True), greatest(a, b))
    else:
        return greatest(a, b)


@triton.jit
def fold_range(minmax_ptr, low, high):
    """Fold tiles of running minima and maxima into a float32 (min, max) that other programs fold into as well.

    The bits of floats are compared as integers: upwards as signed ones where the sign is +, downwards as unsigned ones
    where it is −. The order of programs cannot matter, and a NaN stays, as the bits that win both comparisons.

    Args:
        minmax_ptr: float32 [2], (+inf, −inf) at first; afterwards −0 below +0, and both NaN where any value was one.
        low: :func:`lower_of` of any values, float32, any shape; +inf where there were none.
        high: :func:`higher_of` of the same values; −inf where there were none.
    """
    least_key = tl.min(tl.ravel(key(low)).to(tl.uint32), 0)
    greatest_key = tl.max(tl.ravel(key(high)).to(tl.uint32), 0)
    nan = greatest_key == 0xFFFFFFFF
    low_bits = tl.where(nan, 0xFFFFFFFF, _bits(least_key))
    high_bits = tl.where(nan, 0x7FFFFFFF, _bits(greatest_key))
    signed_ptr = minmax_ptr.to(tl.pointer_type(tl.int32))
    unsigned_ptr = minmax_ptr.to(tl.pointer_type(tl.uint32))
    low_signed = low_bits.to(tl.int32, bitcast=True)
    high_signed = high_bits.to(tl.int32, bitcast=True)
    tl.atomic_min(signed_ptr, low_signed, mask=low_signed >= 0, sem="relaxed")
    tl.atomic_max(unsigned_ptr, low_bits, mask=low_signed < 0, sem="relaxed")
    tl.atomic_max(signed_ptr + 1, high_signed, mask=high_signed >= 0, sem="relaxed")
    tl.atomic_min(unsigned_ptr + 1, high_bits, mask=high_signed < 0, sem="relaxed")


@triton.jit
def _integer(x):
    return x.to(tl.uint32, bitcast=True)


@triton.jit
def _bits(ordered):
    """The float32 bits (in uint32) that a key stands for."""
    return tl.where(ordered >> 31 != 0, ordered & 0x7FFFFFFF, ordered ^ 0xFFFFFFFF).to(tl.uint32)
