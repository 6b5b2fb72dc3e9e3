"""Device functions on their own: the division, rounding, keys and networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from division_cases import LARGEST, SMALLEST, boundary_cases
from hardware import as_compiled

from sta_kernels.kernels.reference import dtypes, order
from sta_kernels.kernels.reference.dtypes import Array
from sta_kernels.kernels.triton import primitives
from sta_kernels.kernels.triton.primitives import invariant, key, narrow, normalise

BLOCK = 1 << 14
LEAST_NORMAL = 2.0**-126


@triton.jit
def _normalise_kernel(importance_ptr, shift_ptr, divisor_ptr, out_ptr, exact_ptr, BLOCK: tl.constexpr):
    here = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    scale, offset, significand, reciprocal, exact = invariant(tl.load(shift_ptr + here), tl.load(divisor_ptr + here))
    tl.store(out_ptr + here, normalise(tl.load(importance_ptr + here), scale, offset, significand, reciprocal))
    tl.store(exact_ptr + here, exact)


@triton.jit
def _narrow_kernel(x_ptr, out_ptr, DTYPE: tl.constexpr, BLOCK: tl.constexpr):
    here = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + here, narrow(tl.load(x_ptr + here), DTYPE))


@triton.jit
def _key_kernel(x_ptr, out_ptr, BLOCK: tl.constexpr):
    here = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + here, key(tl.load(x_ptr + here)))


def padded(values: Array) -> torch.Tensor:
    """A tensor of whole blocks."""
    result = np.ones(-(-values.size // BLOCK) * BLOCK, values.dtype)
    result[: values.size] = values
    return torch.from_numpy(result)


def normalised(importance: Array, shift: Array, divisor: Array) -> tuple[Array, Array]:
    """What the primitives give, and whether they call the constants exact."""
    operands = [padded(array.astype(np.float32)) for array in (importance, shift, divisor)]
    out, exact = torch.empty_like(operands[0]), torch.empty(len(operands[0]), dtype=torch.bool)
    _normalise_kernel[(len(out) // BLOCK,)](*operands, out, exact, BLOCK=BLOCK)
    return out.numpy()[: importance.size], exact.numpy()[: importance.size]


def check(importance: Array, shift: Array, divisor: Array) -> Array:
    """Assert that what is above LEAST_EXACT is the reference's quotient; returns where that is so."""
    scaled, exact = normalised(importance, shift, divisor)
    with np.errstate(all="ignore"):
        difference = importance - shift
        quotient = np.where(divisor != 0, difference / divisor, difference * np.float32(0))
        wanted = quotient.astype(np.float64) * 2.0**primitives.HEADROOM.value
    trusted = exact & (scaled > primitives.LEAST_EXACT.value)
    assert np.array_equal(scaled[trusted].astype(np.float64), wanted[trusted])
    # Normal quotients of ordinary constants are all trusted: the fast path is not idle.
    normal = exact & (quotient > LEAST_NORMAL) & np.isfinite(scaled)
    assert trusted[normal].all()
    # What is not trusted is below every quotient that is, or NaN.
    assert not (scaled[exact & (quotient < LEAST_NORMAL)] > primitives.LEAST_EXACT.value).any()
    return trusted


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("shift", [24, 25])
def test_quotients_next_to_rounding_boundaries(shift: int, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled:
        as_compiled(monkeypatch)
    rng = np.random.default_rng(shift)
    divisors = np.unique([SMALLEST, SMALLEST + 1, LARGEST - 1, 3 << 22, *rng.integers(SMALLEST, LARGEST, 2000)])
    x, d = boundary_cases(divisors, shift)
    scales = np.ldexp(1.0, rng.integers(-100, 80, x.size)), np.ldexp(1.0, rng.integers(-100, 80, x.size))
    importance, divisor = (x * scales[0]).astype(np.float32), (d * scales[1]).astype(np.float32)
    trusted = check(importance, np.zeros_like(importance), divisor)
    assert trusted.mean() > 0.7


@pytest.mark.parametrize("compiled", [False, True])
def test_operands_of_all_magnitudes(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled:
        as_compiled(monkeypatch)
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 0x7F800000, (3, 60_000)).astype(np.uint32)  # every exponent, subnormals too
    importance, shift, divisor = bits.view(np.float32)
    shift[: shift.size // 2] = 0
    near = slice(0, None, 3)  # importances between the shift and shift + divisor, as min-max makes them
    with np.errstate(all="ignore"):
        importance[near] = shift[near] + divisor[near] * rng.random(importance[near].size, np.float32)
    divisor[::50] = 0
    # A quotient that the reference rounds up to the least normal one, beside that one.
    importance[1:3], shift[1:3], divisor[1:3] = (2.0**-100, 2.0**-100 * (1 - 2.0**-24)), 0, 2.0**26
    # Differences that only a multiply-add keeps finite.
    importance[3:5], shift[3:5], divisor[3:5] = 3e38, -3e38, (2e38, 0)
    trusted = check(importance, shift, divisor)
    assert trusted.sum() > 5000


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_of_stored_values(dtype: str) -> None:
    bits = np.concatenate(
        (
            np.random.default_rng(1).integers(0, 1 << 32, 40_000, dtype=np.uint32),
            np.arange(0, 1 << 32, 0x8000, dtype=np.uint32),  # ties of bfloat16, infinities, and NaN
            np.arange(0x38000000, 0x48000000, 0x1000, dtype=np.uint32),  # ties of float16
        )
    )
    x = padded(bits.view(np.float32))
    out = torch.empty(x.shape, dtype=getattr(torch, dtype))
    _narrow_kernel[(len(x) // BLOCK,)](x, out, DTYPE=getattr(tl, dtype), BLOCK=BLOCK)
    convert = {"bfloat16": dtypes.float32_to_bfloat16, "float16": dtypes.float32_to_float16}[dtype]
    with np.errstate(all="ignore"):
        wanted = convert(x.numpy())
    number = ~np.isnan(x.numpy())
    assert np.array_equal(out.view(torch.int16).numpy()[number], wanted.view(np.int16)[number])
    assert torch.isnan(out[torch.from_numpy(~number)]).all()


def test_keys_order_as_the_reference() -> None:
    bits = np.random.default_rng(2).integers(0, 1 << 32, 50_000, dtype=np.uint32)
    bits[:6] = (0, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001)
    x = padded(bits.view(np.float32))
    out = torch.empty(x.shape, dtype=torch.int64)
    _key_kernel[(len(x) // BLOCK,)](x, out, BLOCK=BLOCK)
    assert np.array_equal(out.numpy(), order.keys_exact(x.numpy()).astype(np.int64))
