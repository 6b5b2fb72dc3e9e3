"""Operands as launchers take them, made of whatever a backend's caller has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from sta_kernels.kernels.buffers import Buffer, DType, ImportanceSource
from sta_kernels.kernels.formula import FormulaSource

_Source = TypeVar("_Source", ImportanceSource, FormulaSource)


class Packed:
    """Operands as the launchers take them: contiguous in C order, and of one dtype where they must be.

    Each is packed by itself, and results are copied back on leaving the block. (The operators of ``sta_kernels.ops``
    rather agree on one layout for all operands, :mod:`sta_kernels.ops._flat`.)
    """

    def __init__(self) -> None:
        self._written: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __enter__(self) -> Packed:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            for target, packed in self._written:
                target.copy_(packed)

    def buffer(self, buffer: Buffer) -> Buffer:
        """The buffer, packed where it has strides."""
        return buffer if buffer.strides is None else Buffer.from_torch(tensor_of(buffer).contiguous())

    def source(self, source: _Source) -> _Source:
        """An importance, or a field, whose operands are contiguous."""
        if isinstance(source, FormulaSource):
            return replace(
                source,
                models=tuple(map(self.buffer, source.models)),
                base=None if source.base is None else self.buffer(source.base),
                importances=tuple(map(self.buffer, source.importances)),
            )
        return replace(
            source,
            importance=None if source.importance is None else self.buffer(source.importance),
            theta=None if source.theta is None else self.buffer(source.theta),
        )

    def alike(self, buffers: Sequence[Buffer]) -> tuple[Buffer, ...]:
        """Buffers of one dtype: float32 values of all where theirs differ."""
        if len({buffer.dtype for buffer in buffers}) <= 1:
            return tuple(map(self.buffer, buffers))
        return tuple(Buffer.from_torch(tensor_of(buffer).float().contiguous()) for buffer in buffers)

    def result(self, buffer: Buffer) -> Buffer:
        """Memory to write to, copied into the buffer at the end where that has strides."""
        if buffer.strides is None:
            return buffer
        target = tensor_of(buffer)
        packed = torch.empty(target.shape, dtype=target.dtype, device=target.device)
        self._written.append((target, packed))
        return Buffer.from_torch(packed)

    def updated(self, buffer: Buffer) -> Buffer:
        """As :meth:`result`, with the values that the buffer has."""
        if buffer.strides is None:
            return buffer
        target = tensor_of(buffer)
        packed = target.contiguous()
        self._written.append((target, packed))
        return Buffer.from_torch(packed)


def copied(*buffers: Buffer | None) -> int:
    """Bytes of the copies that :meth:`Packed.buffer`, or its like for results, makes of the buffers."""
    return sum(buffer.size * buffer.dtype.itemsize for buffer in buffers if buffer is not None and buffer.strides)


def copied_alike(buffers: Sequence[Buffer]) -> int:
    """Bytes of the copies that :meth:`Packed.alike` makes of the buffers."""
    if len({buffer.dtype for buffer in buffers}) <= 1:
        return copied(*buffers)
    return sum(buffer.size * DType.F32.itemsize for buffer in buffers)


def tensor_of(buffer: Buffer) -> torch.Tensor:
    """The buffer as a tensor without a copy: a view of what it was made from, or of main memory."""
    owner, itemsize = buffer.owner, buffer.dtype.itemsize
    if isinstance(owner, torch.Tensor):
        storage = owner.untyped_storage()
        steps = None if buffer.strides is None else tuple(stride // itemsize for stride in buffer.strides)
        view = torch.empty(0, dtype=_TORCH[buffer.dtype], device=owner.device)
        if not buffer.size:
            return view.reshape(buffer.shape)
        start = (buffer.address - storage.data_ptr()) // itemsize
        return view.set_(storage, start, buffer.shape, _dense(buffer.shape) if steps is None else steps)
    array = torch.from_numpy(buffer.numpy())
    return array.view(torch.bfloat16) if buffer.dtype is DType.BF16 else array


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Steps of C order."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


_TORCH = {DType.F32: torch.float32, DType.BF16: torch.bfloat16, DType.F16: torch.float16, DType.F64: torch.float64}
