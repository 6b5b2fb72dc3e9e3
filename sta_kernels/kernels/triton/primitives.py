"""Device functions that every kernel shares: conversions, the exact division, order-preserving keys, selection.

Each computes the bits of :mod:`sta_kernels.kernels.reference`. Where the interpreter cannot do what the hardware does
(a fused multiply-add, rounding to bfloat16), a primitive has two forms; both are held against the reference.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

INTERPRETED: tl.constexpr = tl.constexpr(bool(knobs.runtime.interpret))
"""Whether the kernels of this process run in Triton's interpreter; fixed when they are first imported."""

HEADROOM: tl.constexpr = tl.constexpr(25)
"""Binary places by which :func:`divide` keeps quotients away from the subnormal numbers."""

LEAST_EXACT: tl.constexpr = tl.constexpr(2.0 ** (25 - 126))
"""Scaled quotients above it stand for normal ones; what is smaller may have been rounded otherwise."""

GREATEST_SHIFT: tl.constexpr = tl.constexpr(2.0**102)
"""Greatest magnitude of a shift whose difference from a finite float32 rounds to a finite one."""


@triton.jit
def widen(x):
    """The float32 value of a stored element."""
    if INTERPRETED and x.dtype == tl.bfloat16:  # the interpreter loses subnormal numbers
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@triton.jit
def narrow(x, DTYPE: tl.constexpr):
    """Round float32 to a stored dtype: nearest, ties to even; a NaN stays one."""
    if INTERPRETED and DTYPE == tl.bfloat16:  # the interpreter truncates
        bits = x.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        bits = tl.where(x == x, rounded, (bits >> 16) | 0x40)
        return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(DTYPE)


@triton.jit
def pointer(address, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """An address from a table as a pointer; ``ALIGNED`` promises a multiple of 16 bytes, and 128-bit accesses."""
    typed = address.to(tl.pointer_type(DTYPE))
    if ALIGNED:
        typed = tl.multiple_of(typed, 16)
    return typed


@triton.jit
def positions(start, BLOCK: tl.constexpr):
    """Consecutive element offsets from ``start``, a multiple of ``BLOCK``."""
    return tl.max_contiguous(tl.multiple_of(start + tl.arange(0, BLOCK), BLOCK), BLOCK)


@triton.jit
def invariant(shift, divisor):
    """What :func:`normalise` needs of one task's normaliser, computed once.

    The significand of the divisor, its correctly rounded reciprocal, and the power of two (with :data:`HEADROOM`) that
    takes differences to the same scale.

    Returns:
        scale, −shift·scale, divisor in [1, 2), its reciprocal, and whether all of this is exact.
    """
    bits = divisor.to(tl.int32, bitcast=True)
    exponent = bits >> 23  # negative divisors and NaN are not exact below
    inside = (exponent >= HEADROOM) & (exponent < 255)
    scale = (tl.where(inside, 254 + HEADROOM - exponent, 0) << 23).to(tl.float32, bitcast=True)
    significand = tl.where(inside, (bits & 0x7FFFFF) | 0x3F800000, 0x3F800000).to(tl.float32, bitcast=True)
    offset = tl.where(inside, -shift * scale, 0.0)
    # A shift that is tiny or huge beside the range does not survive the scaling; one beyond 2^102 could take a finite
    # importance to infinity, which a multiply-add steps over.
    kept = (tl.div_rn(offset, tl.where(inside, scale, 1.0)) == -shift) & (tl.abs(offset) < float("inf"))
    exact = ((inside & kept) | (divisor == 0.0)) & (tl.abs(shift) <= GREATEST_SHIFT)
    return scale, offset, significand, tl.div_rn(1.0, significand), exact


@triton.jit
def normalise(importance, scale, offset, divisor, reciprocal):
    """``(I − shift)/divisor`` (eq. 13), correctly rounded, times ``2**HEADROOM``.

    The difference is scaled by a power of two in the multiply-add that forms it, and divided by the significand of the
    divisor with Markstein's sequence: with c = RN(1/d) and q = RN(x·c), r = x − q·d is exact and RN(q + r·c) is the
    correctly rounded quotient, which the tests prove over every significand. Results up to :data:`LEAST_EXACT` are not
    to be trusted but for 0, nor is NaN, which also stands for an overflow; callers test for both.
    """
    x = tl.fma(importance, scale, offset)
    if INTERPRETED:  # its multiply-add rounds twice; the one above has an exact product
        return tl.where(tl.abs(x) < float("inf"), tl.div_rn(x, divisor), float("nan"))
    else:
        quotient = x * reciprocal
        remainder = tl.fma(-quotient, divisor, x)
        return tl.fma(remainder, reciprocal, quotient)


@triton.jit
def normalise_plainly(importance, shift, divisor):
    """``RN(RN(I − shift)/divisor)`` (eq. 13) for any operands; ``RN(I − shift)·0`` where the divisor is 0."""
    difference = importance - shift
    safe = tl.where(divisor == 0.0, 1.0, divisor)
    return tl.where(divisor == 0.0, difference * 0.0, tl.div_rn(difference, tl.broadcast_to(safe, difference.shape)))


@triton.jit
def least(a, b):
    """Minimum that a NaN wins."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def greatest(a, b):
    """Maximum that a NaN wins."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _exchange(values, LOW: tl.constexpr, HIGH: tl.constexpr):
    smaller = least(values[LOW], values[HIGH])
    larger = greatest(values[LOW], values[HIGH])
    values = values[:LOW] + (smaller,) + values[LOW + 1 :]
    return values[:HIGH] + (larger,) + values[HIGH + 1 :]


@triton.jit
def select(values, NETWORK: tl.constexpr, RANK: tl.constexpr):
    """The ``RANK``-th smallest (1-based) of a tuple of tensors, position by position; NaN where any is NaN."""
    for step in tl.static_range(len(NETWORK)):
        values = _exchange(values, NETWORK[step][0], NETWORK[step][1])
    return values[RANK - 1]


@triton.jit
def key(x):
    """32-bit integer that orders as float32 does: −0 below +0, every NaN last, 0xFFFFFFFF."""
    bits = x.to(tl.uint32, bitcast=True)
    ordered = tl.where(bits >> 31 != 0, bits ^ 0xFFFFFFFF, bits | 0x80000000)
    return tl.where(x == x, ordered, 0xFFFFFFFF)
