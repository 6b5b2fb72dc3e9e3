"""Importances as operands of a launch: many tensors in one table, read in whichever measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from sta_kernels.kernels.buffers import MEASURES, Buffer, DType, ImportanceSource
from sta_kernels.kernels.triton.config import WARP, LaunchConfig
from sta_kernels.kernels.triton.primitives import widen
from sta_kernels.kernels.triton.tables import aligned, check_contiguous, chunks, language_dtype, upload

_IN_FLIGHT = 32
"""Bytes of the wider operand that a thread of a reduction asks for before it waits."""


@dataclass(frozen=True)
class Signature:
    """What a kernel is compiled for; sources that share it share a launch.

    Attributes:
        measure: ``lp``, ``amp`` or ``lp_amp``.
        importance: dtype of the stored importance; None for ``amp``.
        theta: dtype of the weight; None for ``lp``.
        aligned: whether what is read starts at multiples of 16 bytes.
    """

    measure: str
    importance: DType | None
    theta: DType | None
    aligned: bool

    @classmethod
    def of(cls, source: ImportanceSource) -> Signature:
        """Signature of one source.

        Raises:
            ValueError: an unknown measure, an operand missing, of another size than the other, or with strides.
        """
        buffers = operands(source)
        check_contiguous(buffers)
        if len({buffer.size for buffer in buffers}) != 1:
            raise ValueError(f"{source.measure}: {buffers} differ in size")
        importance = None if source.measure == "amp" else buffers[0].dtype
        theta = None if source.measure == "lp" else buffers[-1].dtype
        return cls(source.measure, importance, theta, aligned(buffers))

    @property
    def itemsizes(self) -> tuple[int, ...]:
        """Bytes per element of what is read."""
        return tuple(dtype.itemsize for dtype in (self.importance, self.theta) if dtype is not None)

    def constants(self) -> dict[str, Any]:
        """Compile-time arguments of a kernel that calls :func:`read_importance`."""
        return {
            "MEASURE": self.measure,
            "IMPORTANCE": language_dtype(DType.F32 if self.importance is None else self.importance),
            "THETA": language_dtype(DType.F32 if self.theta is None else self.theta),
            "ALIGNED": self.aligned,
        }


def operands(source: ImportanceSource) -> list[Buffer]:
    """The buffers that the measure reads: the stored importance, then the weight.

    Raises:
        ValueError: an unknown measure, or an operand missing.
    """
    if source.measure not in MEASURES:
        raise ValueError(f"measure {source.measure!r}: expected one of {', '.join(MEASURES)}")
    wanted = {"lp": (source.importance,), "amp": (source.theta,), "lp_amp": (source.importance, source.theta)}
    buffers = [buffer for buffer in wanted[source.measure] if buffer is not None]
    if len(buffers) < len(wanted[source.measure]):
        raise ValueError(f"measure {source.measure!r}: an operand that it reads is missing")
    return buffers


def reduction_config(signature: Signature, n_elements: int) -> LaunchConfig:
    """Launch of a reduction: wide reads, and chunks short enough that few elements still occupy a whole device."""
    warps = 4
    block = warps * WARP * max(16 // min(signature.itemsizes), min(16, _IN_FLIGHT // max(signature.itemsizes)))
    blocks = 32
    while blocks > 1 and n_elements < 2048 * block * blocks:
        blocks //= 2
    return LaunchConfig(block, block * blocks, warps)


@dataclass(frozen=True)
class SourceLaunch:
    """One launch: sources of one signature.

    Attributes:
        signature: of all its sources.
        config: of the launch.
        members: their indices among all sources.
        chunks: int32 [C, 2] on the device, C at least 1: (index among all sources, chunk within the tensor).
    """

    signature: Signature
    config: LaunchConfig
    members: tuple[int, ...]
    chunks: torch.Tensor


def tabulate(
    device: torch.device,
    sources: Sequence[ImportanceSource],
    columns: Sequence[int],
    choose: Callable[[Signature, int], LaunchConfig],
    *others: np.ndarray[Any, Any],
) -> tuple[list[SourceLaunch], torch.Tensor, list[torch.Tensor]]:
    """Group sources by signature and upload their tables, with other small arrays, in one copy.

    Args:
        device: to upload to.
        sources: contiguous operands.
        columns: a number of the caller's per source.
        choose: launch for a signature and its number of elements.
        others: arrays to upload as well.

    Returns:
        launches: one per signature that has any element.
        rows: int64 [S, 4]: elements, the caller's number, address of the importance and of the weight (0 for none).
        others: on the device.

    Raises:
        ValueError: as :meth:`Signature.of`.
    """
    groups: dict[Signature, list[int]] = {}
    table = np.zeros((len(sources), 4), np.int64)
    for index, (source, column) in enumerate(zip(sources, columns, strict=True)):
        signature = Signature.of(source)
        table[index, :2] = source.size, column
        if signature.importance is not None:
            table[index, 2] = operands(source)[0].address
        if signature.theta is not None:
            table[index, 3] = operands(source)[-1].address
        if source.size:
            groups.setdefault(signature, []).append(index)
    lists, configs = [], []
    for signature, members in groups.items():
        sizes = [sources[member].size for member in members]
        configs.append(choose(signature, sum(sizes)))
        per_group = chunks(sizes, configs[-1].chunk)
        per_group[:, 0] = np.asarray(members, np.int32)[per_group[:, 0]]
        lists.append(per_group)
    rows, *uploaded = upload(device, table, *lists, *others)
    launches = [
        SourceLaunch(signature, config, tuple(members), there)
        for (signature, members), config, there in zip(groups.items(), configs, uploaded, strict=False)
    ]
    return launches, rows, uploaded[len(lists) :]


@triton.jit
def read_importance(importance_ptr, theta_ptr, here, mask, MEASURE: tl.constexpr, EVICTION: tl.constexpr):
    """Float32 importance (eq. 12, 21, 22) at some offsets; 0 where a mask is given and false."""
    if MEASURE == "lp":
        importance = _read(importance_ptr + here, mask, EVICTION)
    else:
        theta = _read(theta_ptr + here, mask, EVICTION)
        importance = theta * theta
        if MEASURE == "lp_amp":
            importance = _read(importance_ptr + here, mask, EVICTION) * importance
    return importance


@triton.jit
def _read(pointers, mask, EVICTION: tl.constexpr):
    if mask is None:
        return widen(tl.load(pointers, eviction_policy=EVICTION))
    else:
        return widen(tl.load(pointers, mask=mask, other=0.0, eviction_policy=EVICTION))
