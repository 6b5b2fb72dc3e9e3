"""Plain buffers: the one calling convention between callers and kernels.

A buffer is an address, a dtype, a shape and, when it is not contiguous, byte strides. Nothing here
imports torch: tensors are recognised by their methods, so that a merge from disk to disk on a CPU
never pays for the import.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

MEASURES = ("lp", "amp", "lp_amp")


class DType(IntEnum):
    """Element types that kernels read and write; the values are those of ``sta_core.h``."""

    F32 = 0
    BF16 = 1
    F16 = 2
    F64 = 3

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return _ITEMSIZE[self]

    @property
    def numpy(self) -> np.dtype[Any]:
        """NumPy dtype of the storage; bfloat16 is carried as ``uint16``."""
        return _NUMPY[self]


_ITEMSIZE = (4, 2, 2, 8)
_NUMPY = tuple(np.dtype(code) for code in ("<f4", "<u2", "<f2", "<f8"))
_FROM_NUMPY = {np.dtype("<f4"): DType.F32, np.dtype("<f2"): DType.F16, np.dtype("<f8"): DType.F64}
_FROM_TORCH: dict[Any, DType] = {}


class Buffer:
    """Elements in memory, without ownership of how they are laid out above.

    Attributes:
        address: of the first element; any alignment.
        dtype: one of :class:`DType`.
        shape: sizes per dimension.
        strides: bytes per step and dimension, or None when contiguous in C order.
        owner: whatever must stay alive while the buffer is in use.
    """

    __slots__ = ("address", "dtype", "owner", "shape", "strides")

    def __init__(
        self,
        address: int,
        dtype: DType,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None = None,
        owner: Any = None,
    ) -> None:
        self.address = address
        self.dtype = dtype
        self.shape = shape
        self.strides = strides
        self.owner = owner

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def __repr__(self) -> str:
        layout = "contiguous" if self.strides is None else f"strides={self.strides}"
        return f"Buffer({self.dtype.name}, {list(self.shape)}, {layout})"

    @classmethod
    def from_numpy(cls, array: np.ndarray[Any, Any], dtype: DType | None = None) -> Buffer:
        """View an array; ``uint16`` arrays hold bfloat16 and need ``dtype=DType.BF16``."""
        if dtype is None:
            dtype = _FROM_NUMPY.get(array.dtype)
            if dtype is None:
                raise TypeError(f"no kernel reads {array.dtype}; use float32, float16, float64, or bfloat16 as uint16")
        elif array.dtype.itemsize != dtype.itemsize:
            raise TypeError(f"an array of {array.dtype} cannot hold {dtype.name}")
        strides = None if array.flags.c_contiguous else array.strides
        return cls(array.__array_interface__["data"][0], dtype, array.shape, strides, array)

    @classmethod
    def from_torch(cls, tensor: torch.Tensor) -> Buffer:
        """View a CPU tensor of a floating dtype."""
        dtype = torch_dtype(tensor.dtype)
        strides = None
        if not tensor.is_contiguous():
            strides = tuple(step * dtype.itemsize for step in tensor.stride())
        return cls(tensor.data_ptr(), dtype, tuple(tensor.shape), strides, tensor)

    def numpy(self) -> np.ndarray[Any, Any]:
        """View as a NumPy array of the storage dtype (bfloat16 as ``uint16``), without a copy."""
        if self.size == 0:
            return np.empty(self.shape, self.dtype.numpy)
        interface = {
            "data": (self.address, False),
            "shape": self.shape,
            "strides": self.strides,
            "typestr": self.dtype.numpy.str,
            "version": 3,
        }
        holder = _ArrayInterface(interface, self)
        return np.asarray(holder)

    def slice(self, start: int, stop: int) -> Buffer:
        """View elements ``start`` to ``stop`` of a contiguous buffer, as one dimension."""
        if self.strides is not None:
            raise ValueError("only a contiguous buffer has flat slices")
        address = self.address + start * self.dtype.itemsize
        return Buffer(address, self.dtype, (stop - start,), None, self.owner)


def room_on(device: torch.device) -> Callable[[tuple[int, ...]], Buffer]:
    """What makes float32 buffers, not yet filled, on a torch device."""
    import torch

    return lambda shape: Buffer.from_torch(torch.empty(shape, dtype=torch.float32, device=device))


class _ArrayInterface:
    """Carries an array interface and keeps its memory alive."""

    def __init__(self, interface: dict[str, Any], owner: Any) -> None:
        self.__array_interface__ = interface
        self.owner = owner


def torch_dtype(dtype: torch.dtype) -> DType:
    """Kernel dtype of a torch dtype; TypeError where no kernel reads it."""
    if not _FROM_TORCH:
        import torch

        _FROM_TORCH.update(
            {
                torch.float32: DType.F32,
                torch.bfloat16: DType.BF16,
                torch.float16: DType.F16,
                torch.float64: DType.F64,
            }
        )
    try:
        return _FROM_TORCH[dtype]
    except KeyError:
        raise TypeError(f"no kernel reads {dtype}; use float32, bfloat16, float16 or float64") from None


@dataclass(frozen=True, slots=True)
class ImportanceSource:
    """Where a task's importance at each position comes from, without materialising it.

    ``lp``: the importance as stored. ``amp``: θ² (eq. 21). ``lp_amp``: stored lp importance times θ² (eq. 22).
    """

    measure: str
    importance: Buffer | None = None
    theta: Buffer | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        buffer = self.importance if self.importance is not None else self.theta
        assert buffer is not None
        return buffer.size
