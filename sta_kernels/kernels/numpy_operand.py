"""Buffers as NumPy reads and writes them in float32, some elements at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sta_kernels.kernels.backend import LEAF
from sta_kernels.kernels.buffers import Buffer, DType
from sta_kernels.kernels.reference import dtypes
from sta_kernels.kernels.reference.dtypes import Array

_TO_FLOAT32: dict[DType, Callable[[Array], Array]] = {
    DType.F32: np.copy,
    DType.BF16: dtypes.bfloat16_to_float32,
    DType.F16: dtypes.float16_to_float32,
    DType.F64: dtypes.float64_to_float32,
}
_FROM_FLOAT32: dict[DType, Callable[[Array], Array]] = {
    DType.F32: np.asarray,
    DType.BF16: dtypes.float32_to_bfloat16,
    DType.F16: dtypes.float32_to_float16,
    DType.F64: dtypes.float32_to_float64,
}
WORKING_SET = 1 << 18
"""Elements of all operands together that are held at once: a few MB with the temporaries."""


class Operand:
    """A buffer flattened in C order, read and written in float32 by parts, whatever its strides and alignment."""

    def __init__(self, buffer: Buffer) -> None:
        array = buffer.numpy()
        self.dtype = buffer.dtype
        # A flat iterator slices strided memory without a copy of the whole.
        self._flat: Any = array.reshape(-1) if buffer.strides is None else array.flat

    def stored(self, part: slice) -> Array:
        """A copy of the elements as they are stored."""
        return np.array(self._flat[part])

    def read(self, part: slice) -> Array:
        """A copy of the elements as float32."""
        return _TO_FLOAT32[self.dtype](self._flat[part])

    def write(self, part: slice, values: Array) -> None:
        """Round float32 values into storage."""
        self._flat[part] = _FROM_FLOAT32[self.dtype](values)

    def write_merged(self, part: slice, values: Array, own: Operand, changed: Array) -> None:
        """Round float32 values into storage; from float64 to float64, ``own`` as stored where nothing changed.

        Between other dtypes the values hold ``own`` in float32 there, and rounding that is its conversion.
        """
        if self.dtype is own.dtype is DType.F64:
            self._flat[part] = np.where(changed, values, own.stored(part))
        else:
            self.write(part, values)


def parts_of(size: int, n_operands: int, step: int = LEAF) -> Iterator[slice]:
    """Consecutive slices of whole steps, few enough elements that all operands' stay in bounded memory."""
    step *= max(1, WORKING_SET // n_operands // step)
    return (slice(start, min(start + step, size)) for start in range(0, size, step))
