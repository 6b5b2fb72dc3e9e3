"""Kernels on a device for operands in main memory: copied there, worked on, copied back, on one stream per worker.

The buffers of a worker have a twin of the same size on the device, so that where an operand is there follows from where
it is here. Several workers are several streams: while one reads a file, another's copies and a third one's kernels run.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch

from sta_kernels.kernels.backend import Backend, finish_one_by_one
from sta_kernels.kernels.buffers import Buffer, DType, ImportanceSource
from sta_kernels.kernels.formula import FormulaSource

_TORCH = {
    DType.F32: torch.float32,
    DType.BF16: torch.bfloat16,
    DType.F16: torch.float16,
    DType.F64: torch.float64,
}
_P = ParamSpec("_P")
_R = TypeVar("_R")


class Lane:
    """One worker's buffers, their twin on the device, and the stream that orders its copies and kernels.

    An operand is copied when a kernel first asks for it, and then stays: who changes bytes that a kernel has seen calls
    :meth:`reset` first.

    Args:
        device: a GPU, or the CPU, whose twin is main memory too and whose copies are immediate.
        size: bytes.

    Attributes:
        memory: the buffers in main memory; pinned for a GPU, so that copies need no detour and no waiting.
    """

    def __init__(self, device: torch.device, size: int) -> None:
        on_gpu = device.type == "cuda"
        self.device = device
        self._stream = torch.cuda.Stream(device) if on_gpu else None
        self._here = torch.empty(size, dtype=torch.uint8, pin_memory=on_gpu)
        with self.current():
            self._there = torch.empty(size, dtype=torch.uint8, device=device)
        self.memory: np.ndarray[Any, Any] = self._here.numpy()
        self._same: list[tuple[int, int]] = []

    def reset(self) -> None:
        """Forget what has been copied."""
        self._same.clear()

    def current(self) -> AbstractContextManager[Any]:
        """Within it, what is started on the device goes to this lane's stream."""
        return torch.cuda.stream(self._stream)  # of None, it does nothing

    def wait(self) -> None:
        """Until all that was started has ended."""
        if self._stream is not None:
            self._stream.synchronize()

    def place(self, buffer: Buffer) -> tuple[int, int] | None:
        """First byte of a buffer in this lane's memory, and the one after its last; None where it is elsewhere."""
        start = buffer.address - self._here.data_ptr()
        stop = start + buffer.size * buffer.dtype.itemsize
        inside = 0 <= start <= stop <= len(self._here) and start % buffer.dtype.itemsize == 0
        return (start, stop) if inside and buffer.strides is None else None

    def upload(self, start: int, stop: int) -> None:
        """Copy bytes to the twin, unless they are the same there."""
        if not any(begin <= start and stop <= end for begin, end in self._same):
            self._there[start:stop].copy_(self._here[start:stop], non_blocking=True)
            self._same.append((start, stop))

    def download(self, start: int, stop: int) -> None:
        """Copy bytes of the twin back."""
        self._here[start:stop].copy_(self._there[start:stop], non_blocking=True)
        self._same.append((start, stop))

    def twin(self, buffer: Buffer, start: int, stop: int) -> Buffer:
        """The buffer's place on the device."""
        return Buffer.from_torch(self._there[start:stop].view(_TORCH[buffer.dtype]).view(buffer.shape))


class _Call(AbstractContextManager["_Call"]):
    """One call of a kernel: its operands on the way there, and, once it has run, its results on the way back."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._current = lane.current()
        self._returning: list[Callable[[], Any]] = []

    def __enter__(self) -> _Call:
        self._current.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                for bring_back in self._returning:
                    bring_back()
        finally:
            self._current.__exit__(kind, error, traceback)
            self._lane.wait()

    def operand(self, value: Any) -> Any:
        """An argument with every buffer in it on the device."""
        if isinstance(value, Buffer):
            return self._read(value)
        if isinstance(value, ImportanceSource):
            return replace(value, importance=self.operand(value.importance), theta=self.operand(value.theta))
        if isinstance(value, FormulaSource):
            return replace(
                value,
                models=self.operand(value.models),
                base=self.operand(value.base),
                importances=self.operand(value.importances),
            )
        if isinstance(value, Sequence) and not isinstance(value, str):
            return tuple(map(self.operand, value))
        return value

    def result(self, buffer: Buffer, *, read: bool = False) -> Buffer:
        """Where a kernel writes, having read what was there or not."""
        lane = self._lane
        place = lane.place(buffer)
        if place is None:
            here = _tensor(buffer)
            there = torch.empty(here.shape, dtype=here.dtype, device=lane.device)
            if read:
                there.copy_(here)
            self._returning.append(lambda: here.copy_(there))
            return Buffer.from_torch(there)
        if read:
            lane.upload(*place)
        self._returning.append(lambda: lane.download(*place))
        return lane.twin(buffer, *place)

    def _read(self, buffer: Buffer) -> Buffer:
        place = self._lane.place(buffer)
        if place is None:  # a caller's few elements
            here = _tensor(buffer)
            return Buffer.from_torch(torch.empty(here.shape, dtype=here.dtype, device=self._lane.device).copy_(here))
        self._lane.upload(*place)
        return self._lane.twin(buffer, *place)


def _tensor(buffer: Buffer) -> torch.Tensor:
    """View of main memory."""
    return torch.from_numpy(buffer.numpy()).view(_TORCH[buffer.dtype])


def _staged(
    method: Callable[Concatenate[Backend, _P], _R], results: tuple[str, ...] = (), updated: tuple[str, ...] = ()
) -> Callable[Concatenate[StagedBackend, _P], _R]:
    """A backend's method for operands in main memory.

    Args:
        method: of the protocol.
        results: arguments that it writes.
        updated: arguments that it reads and writes.
    """
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(self: StagedBackend, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        bound = signature.bind(self, *args, **kwargs).arguments
        del bound["self"]
        with _Call(self.lane()) as staged:
            for name, value in bound.items():
                if name in (*results, *updated):
                    bound[name] = staged.result(value, read=name in updated)
                else:
                    bound[name] = staged.operand(value)
            return getattr(self.inner, method.__name__)(**bound)

    return call


class StagedBackend:
    """The kernels of a device for callers whose operands are in main memory.

    Every call returns when its results are there. Arrays that are not buffers (tables, counters, leaf sums) are the
    inner backend's business.

    Args:
        inner: its kernels.
        device: on which they run.
    """

    batched = False

    def __init__(self, inner: Backend, device: str) -> None:
        self.inner = inner
        self.name = inner.name
        self._device = torch.device(device)
        self._lanes = threading.local()

    def workspace(self, size: int) -> Lane:
        """Memory for the calling thread, whose calls know it from here on."""
        self._lanes.lane = Lane(self._device, size)
        return self._lanes.lane

    def lane(self) -> Lane:
        """The calling thread's."""
        lane: Lane | None = getattr(self._lanes, "lane", None)
        return self.workspace(0) if lane is None else lane

    def grouped(self) -> AbstractContextManager[None]:
        """Results are wanted call by call, so nothing is held back."""
        return nullcontext()

    sta_merge = _staged(Backend.sta_merge, results=("out",))
    weighted_sum = _staged(Backend.weighted_sum, results=("out",))
    ranges = _staged(Backend.ranges)
    fold = _staged(Backend.fold)
    histogram = _staged(Backend.histogram)
    order_statistic = _staged(Backend.order_statistic)
    order_statistics = _staged(Backend.order_statistics)
    order_statistic_exact = _staged(Backend.order_statistic_exact)
    count_equal = _staged(Backend.count_equal)
    values = _staged(Backend.values)
    evaluate = _staged(Backend.evaluate, results=("out",))
    rank_gate = _staged(Backend.rank_gate, results=("out",))
    sta_forget = _staged(Backend.sta_forget, results=("out",))
    taylor_accumulate = _staged(Backend.taylor_accumulate, updated=("total",))
    taylor_finish = _staged(Backend.taylor_finish, results=("out",))
    first_nonfinite = _staged(Backend.first_nonfinite)

    def taylor_finish_many(
        self, items: Sequence[tuple[Buffer, Buffer, Buffer]], *, measure: str, threads: int
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """One by one: see :meth:`Backend.taylor_finish_many`."""
        return finish_one_by_one(self, items, measure, threads)
