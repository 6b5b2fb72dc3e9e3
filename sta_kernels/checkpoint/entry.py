"""One tensor of a checkpoint, as its header describes it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from sta_kernels.kernels.buffers import DType

BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}
"""Bits per element of every dtype code of the safetensors format."""

MAX_RANK = 64
"""Most dimensions of a tensor: NumPy's and torch's own limit."""

KERNEL_DTYPES = {"F32": DType.F32, "BF16": DType.BF16, "F16": DType.F16, "F64": DType.F64}
_CODES = {dtype: code for code, dtype in KERNEL_DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where a tensor lies and how its bytes are to be read.

    Attributes:
        name: as matched across models, wrappings removed (:mod:`sta_kernels.checkpoint.names`).
        dtype: safetensors code: ``F32``, ``BF16``, ``F16``, ``F64``, ``I64``, ``BOOL``, …
        shape: sizes per dimension.
        nbytes: bytes of the tensor, C order.
        file: that holds it.
        offset: of its first byte in ``file``; None where the file has no flat layout (``.pt``).
        natural: dtype in which the tensor is written where nothing else is asked for; None for its own. A tensor that
            is computed while it is read has more digits than the checkpoint it stands in.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: Path
    offset: int | None = None
    natural: str | None = None

    @property
    def kernel_dtype(self) -> DType | None:
        """Element type as kernels read it; None for integers, bools and block-scaled formats."""
        return KERNEL_DTYPES.get(self.dtype)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def byte_size(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor.

    Raises:
        ValueError: unknown dtype, or sub-byte elements that do not fill whole bytes.
    """
    try:
        bits = BITS[dtype] * math.prod(shape)
    except KeyError:
        raise ValueError(f"unknown dtype {dtype!r}") from None
    if bits % 8:
        raise ValueError(f"{math.prod(shape)} elements of {dtype} do not fill whole bytes")
    return bits // 8


def code_of(dtype: DType) -> str:
    """Safetensors code of a kernel dtype."""
    return _CODES[dtype]
