"""Tables that let one launch serve all tensors of a model: a row of addresses per tensor, a chunk list over all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton.language as tl

from sta_kernels.kernels.buffers import Buffer, DType
from sta_kernels.kernels.triton import immediate

ALIGNMENT = 16
"""Bytes of the widest access."""

_LANGUAGE = {DType.F32: tl.float32, DType.BF16: tl.bfloat16, DType.F16: tl.float16, DType.F64: tl.float64}


def language_dtype(dtype: DType) -> tl.dtype:
    """Triton's name of a stored dtype."""
    return _LANGUAGE[dtype]


def aligned(buffers: Sequence[Buffer]) -> bool:
    """Whether every buffer starts at a multiple of 16 bytes."""
    return all(buffer.address % ALIGNMENT == 0 for buffer in buffers)


def check_contiguous(buffers: Sequence[Buffer]) -> None:
    """Raise ValueError where a buffer has strides: kernels read flat memory."""
    for buffer in buffers:
        if buffer.strides is not None:
            raise ValueError(f"{buffer}: only contiguous buffers can be launched")


def rows(segments: Sequence[tuple[int, int, Sequence[Buffer]]]) -> np.ndarray[Any, Any]:
    """int64 [R, 2 + B]: number of elements, index among all segments, then the addresses, of each row's segment.

    The index says where a segment's entries are in other tables, which serve launches of several signatures.
    """
    return np.array(
        [[size, index, *(buffer.address for buffer in buffers)] for size, index, buffers in segments], np.int64
    )


def chunks(sizes: Sequence[int], chunk: int) -> np.ndarray[Any, Any]:
    """int32 [C, 2]: (segment, chunk within it) of every chunk of every segment; an empty segment has none."""
    per_segment = [-(-size // chunk) for size in sizes]
    table = np.empty((sum(per_segment), 2), np.int32)
    table[:, 0] = np.repeat(np.arange(len(sizes), dtype=np.int32), per_segment)
    starts = np.cumsum([0, *per_segment[:-1]]) if per_segment else np.zeros(0, np.int64)
    table[:, 1] = np.arange(len(table)) - np.repeat(starts, per_segment)
    return table


def signed(value: int) -> int:
    """A 64-bit integer, signed or not, as a table holds it."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def upload(device: torch.device, *arrays: np.ndarray[Any, Any]) -> list[torch.Tensor]:
    """Copy small host arrays to the device in one transfer, ordered with the current stream and without waiting.

    While the stream is captured, kernels write them instead, which a graph can replay (:mod:`.immediate`).
    """
    offsets, total = [], 0
    for array in arrays:
        offsets.append(total)
        total += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    captured = immediate.capturing(device)
    staging = torch.zeros(max(total, 1), dtype=torch.uint8, pin_memory=device.type == "cuda" and not captured)
    host = staging.numpy()
    for offset, array in zip(offsets, arrays, strict=True):
        host[offset : offset + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if captured:
        there = torch.empty(total, dtype=torch.uint8, device=device)
        immediate.write(there.view(torch.int64), host[:total].view(np.int64))
    else:
        if device.type == "cuda":
            immediate.prepare(torch.cuda.current_device())
        # The caching host allocator keeps the staging memory until the copy has run.
        there = staging.to(device, non_blocking=True)
    return [
        there[offset : offset + array.nbytes].view(_TORCH[array.dtype.str]).view(array.shape)
        for offset, array in zip(offsets, arrays, strict=True)
    ]


_TORCH = {"<i8": torch.int64, "<i4": torch.int32, "<f4": torch.float32, "<f8": torch.float64}
