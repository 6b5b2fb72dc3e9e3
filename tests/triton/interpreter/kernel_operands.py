"""Operands for kernels in the interpreter: awkward values in any dtype, on or off the 16-byte grid, between guards."""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.buffers import Buffer, DType
from sta_kernels.kernels.reference import dtypes
from sta_kernels.kernels.reference.dtypes import Array

SIZES = (0, 1, 7, 63, 64, 65, 1000, 9000)
SPECIAL = np.array(
    (0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1e-45, -1e-45, 1e-39, -1e-39, 3.4e38, -3.4e38, 65519, 65520, 1, -1),
    np.float32,
)
_STORE = {
    DType.F32: np.asarray,
    DType.BF16: dtypes.float32_to_bfloat16,
    DType.F16: dtypes.float32_to_float16,
    DType.F64: dtypes.float32_to_float64,
}
_INTEGER = {DType.F32: np.uint32, DType.BF16: np.uint16, DType.F16: np.uint16, DType.F64: np.uint64}


class Operand:
    """An array with guard elements on both sides, starting ``shift`` elements past a multiple of 64 bytes."""

    def __init__(self, dtype: DType, size: int, shift: int = 0) -> None:
        guard = 64
        self.dtype, self.size = dtype, size
        raw = np.full((size + 3 * guard) * dtype.itemsize, 0x5A, np.uint8)
        start = -raw.__array_interface__["data"][0] % 64 + (guard + shift) * dtype.itemsize
        self.raw, self.start, self.stop = raw, start, start + size * dtype.itemsize
        self.array = raw[self.start : self.stop].view(dtype.numpy)

    def buffer(self) -> Buffer:
        """The elements as kernels see them."""
        return Buffer(self.array.__array_interface__["data"][0], self.dtype, (self.size,), None, self)

    def bits(self) -> Array:
        """Elements as integers, every NaN as one value."""
        bits = self.array.view(_INTEGER[self.dtype])
        if self.dtype is DType.BF16:
            return np.where(bits & 0x7FFF > 0x7F80, 0x7FFF, bits)
        return np.where(np.isnan(self.array), -1, bits.astype(np.int64))

    def guards_hold(self) -> bool:
        """Whether nothing was written outside the elements."""
        return bool((self.raw[: self.start] == 0x5A).all() and (self.raw[self.stop :] == 0x5A).all())

    def copy(self) -> Operand:
        """Another operand with the same elements."""
        twin = Operand(self.dtype, self.size)
        twin.array[:] = self.array
        return twin


def values(
    rng: np.random.Generator, dtype: DType, size: int, *, special: float = 0.0, shift: int = 0, scale: float = 1.0
) -> Operand:
    """Random elements over some magnitudes; a share of ``special`` of them are zeros, NaN, infinities, subnormals."""
    operand = Operand(dtype, size, shift)
    wide = (rng.standard_normal(size) * 10.0 ** rng.integers(-3, 3, size) * scale).astype(np.float32)
    chosen = rng.random(size) < special
    wide[chosen] = rng.choice(SPECIAL, int(chosen.sum()))
    with np.errstate(all="ignore"):
        operand.array[:] = _STORE[dtype](wide)
        if dtype is DType.F64:  # more digits than float32 holds
            operand.array[:] *= 1 + 2.0**-30
    return operand


def same_floats(ours: Array, theirs: Array) -> bool:
    """Equal bits, NaN for NaN."""
    integer = np.uint32 if ours.dtype == np.float32 else np.uint64
    both_nan = np.isnan(ours) & np.isnan(theirs)
    return ours.dtype == theirs.dtype and bool(((ours.view(integer) == theirs.view(integer)) | both_nan).all())
