"""Operands in main memory, kernels on a device: here that is main memory too, and its kernels are the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from sta_kernels.engine.memory import PAGE, Arena
from sta_kernels.engine.staging import Lane, StagedBackend
from sta_kernels.kernels.buffers import Buffer, DType, ImportanceSource
from sta_kernels.kernels.numpy_backend import NumpyBackend

SIZE = 5000
PLAIN = NumpyBackend()


class Spy(NumpyBackend):
    """Kernels that remember where their operands were."""

    def __init__(self) -> None:
        self.addresses: list[int] = []

    def first_nonfinite(self, buffers: Any, *, threads: int = 1) -> tuple[int, int] | None:
        self.addresses += [buffer.address for buffer in buffers]
        return super().first_nonfinite(buffers, threads=threads)


class Worker:
    """An arena with a lane, filled with the same values as plain arrays."""

    def __init__(self, backend: StagedBackend, size: int = 1 << 20) -> None:
        self.lane = backend.workspace(size)
        self.arena = Arena(size, self.lane)

    def hold(self, array: np.ndarray[Any, Any], dtype: DType | None = None) -> Buffer:
        view, address = self.arena.take(array.nbytes)
        view[:] = array.tobytes()
        like = Buffer.from_numpy(array, dtype)
        return Buffer(address, like.dtype, like.shape, None, view)


def some(seed: int, size: int = SIZE) -> np.ndarray[Any, Any]:
    return np.abs(np.random.default_rng(seed).standard_normal(size, np.float32))


@pytest.fixture
def staged() -> StagedBackend:
    return StagedBackend(NumpyBackend(), "cpu")


def merge(backend: Any, buffers: list[Buffer], out: Buffer, counts: np.ndarray[Any, Any]) -> None:
    normaliser = np.array([[0.0, 3.0], [0.1, 2.0]], np.float32)
    backend.sta_merge(
        buffers[0], buffers[1:3], buffers[3:5], measure="lp", normaliser_address=normaliser.ctypes.data, k=1,
        ties="drop", weights=(0.5, 2.0), lambda_=1.0, out=out, counts_address=counts.ctypes.data, threads=1,
    )  # fmt: skip


def forget(backend: Any, buffers: list[Buffer], out: Buffer, counts: np.ndarray[Any, Any]) -> None:
    source = ImportanceSource("lp_amp", buffers[3], buffers[2])
    backend.sta_forget(
        buffers[0], buffers[1], buffers[2], source, threshold=0.3, weight=1.0,
        lambda_=0.5, out=out, counts_address=counts.ctypes.data, threads=1,
    )  # fmt: skip


def weighted_sum(backend: Any, buffers: list[Buffer], out: Buffer, counts: np.ndarray[Any, Any]) -> None:
    backend.weighted_sum(buffers[0], buffers[1:], weights=(1, 2, 3, 4), divisor=10.0, lambda_=0.5, out=out, threads=1)


def accumulate(backend: Any, buffers: list[Buffer], out: Buffer, counts: np.ndarray[Any, Any]) -> None:
    backend.taylor_accumulate(out, buffers[0], threads=1)
    backend.taylor_accumulate(out, buffers[1], threads=1)


def finish(backend: Any, buffers: list[Buffer], out: Buffer, counts: np.ndarray[Any, Any]) -> None:
    ends, leaves = np.array((np.inf, -np.inf), np.float32), np.zeros(2)
    backend.taylor_finish(out, buffers[0], measure="lp", out=out, minmax=ends, leaves=leaves, threads=1)
    counts[:] = [*ends.view(np.int32), leaves.view(np.int64).sum()]


@pytest.mark.parametrize("call", [merge, forget, weighted_sum, accumulate, finish])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["arena", "elsewhere"])
def test_what_kernels_write_comes_back(staged: StagedBackend, call: Callable[..., None], elsewhere: bool) -> None:
    """Operands in a worker's buffers, or anywhere else in main memory."""
    arrays = [some(seed) for seed in range(5)]
    expected, expected_counts = np.full(SIZE, 0.25, np.float32), np.zeros(3, np.int64)
    call(PLAIN, [Buffer.from_numpy(array) for array in arrays], Buffer.from_numpy(expected), expected_counts)
    worker, counts, got = Worker(staged), np.zeros(3, np.int64), np.full(SIZE, 0.25, np.float32)
    hold = Buffer.from_numpy if elsewhere else worker.hold
    out = hold(got)
    call(staged, [hold(array) for array in arrays], out, counts)
    assert out.numpy().tobytes() == expected.tobytes()
    assert counts.tolist() == expected_counts.tolist()


@pytest.mark.parametrize("elsewhere", [False, True], ids=["arena", "elsewhere"])
def test_what_kernels_return(staged: StagedBackend, elsewhere: bool) -> None:
    arrays = [some(seed) for seed in (1, 2)]
    arrays[1][77] = np.inf
    worker = Worker(staged)
    hold = Buffer.from_numpy if elsewhere else worker.hold
    sources = [ImportanceSource("lp", hold(array)) for array in arrays]
    plain = [ImportanceSource("lp", Buffer.from_numpy(array)) for array in arrays]
    answers = []
    for backend, given in ((staged, sources), (PLAIN, plain)):
        ends = np.tile(np.array((np.inf, -np.inf), np.float32), (2, 1))
        leaves = [np.zeros(2), np.zeros(2)]
        backend.ranges(given, ends, leaves, threads=1)
        digits = np.zeros(1 << 11, np.uint64)
        backend.histogram(given[0], prefix=0, prefix_bits=0, digit_bits=11, counts=digits, threads=1)
        buffers = [source.importance for source in given]
        assert buffers[0] is not None
        answers.append(
            (
                ends.tolist(),
                [backend.fold(sums) for sums in leaves],
                digits.tolist(),
                backend.order_statistic(given[0], 7, threads=1),
                backend.order_statistics(given, [3, 4], threads=1),
                backend.order_statistic_exact(buffers[0], 9, threads=1),
                backend.first_nonfinite(buffers),
            )
        )
    assert answers[0] == answers[1]
    assert answers[0][-1] == (1, 77)


def test_bfloat16_and_slices_keep_their_bits(staged: StagedBackend) -> None:
    values = np.arange(0x3F80, 0x3F80 + 300, dtype=np.uint16)
    values[200] = 0x7F80
    held = Worker(staged).hold(values, DType.BF16)
    assert staged.first_nonfinite([held]) == (0, 200)
    assert staged.first_nonfinite([held.slice(0, 200)]) is None
    assert staged.first_nonfinite([held.slice(201, 300), held.slice(199, 300)]) == (1, 1)


def test_operands_with_strides_and_without_elements(staged: StagedBackend) -> None:
    worker = Worker(staged)
    base = some(1, 64).reshape(8, 8)
    base[5, 3] = np.nan
    assert staged.first_nonfinite([worker.hold(np.empty(0, np.float32)), Buffer.from_numpy(base.T)]) == (1, 3 * 8 + 5)


def test_kernels_see_the_twin_only_and_each_operand_is_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy()
    staged = StagedBackend(spy, "cpu")
    worker = Worker(staged)
    one, other = worker.hold(some(1)), worker.hold(some(2))
    copied: list[int] = []
    upload = Lane.upload

    def counting(lane: Lane, start: int, stop: int) -> None:
        before = len(lane._same)
        upload(lane, start, stop)
        copied.extend([start] * (len(lane._same) - before))

    monkeypatch.setattr(Lane, "upload", counting)
    for _ in range(3):
        assert staged.first_nonfinite([one, other]) is None
        assert staged.first_nonfinite([one.slice(10, 20)]) is None
    first = worker.lane.memory.ctypes.data
    assert copied == [one.address - first, other.address - first]
    assert not any(first <= address < first + len(worker.lane.memory) for address in spy.addresses)


def test_what_a_reset_arena_holds_is_copied_again(staged: StagedBackend) -> None:
    worker = Worker(staged)
    assert staged.first_nonfinite([worker.hold(some(1))]) is None
    worker.arena.reset()
    assert staged.first_nonfinite([worker.hold(np.full(SIZE, np.nan, np.float32))]) == (0, 0)


def test_a_result_is_read_where_it_was_written(staged: StagedBackend) -> None:
    """The check of a result needs no copy: it is on the device, and the same in main memory."""
    worker = Worker(staged)
    buffers = [worker.hold(some(seed)) for seed in range(5)]
    out = worker.hold(np.full(SIZE, np.nan, np.float32))
    weighted_sum(staged, buffers, out, np.zeros(0))
    assert np.isfinite(out.numpy()).all()
    assert staged.first_nonfinite([out]) is None
    assert (out.address - worker.lane.memory.ctypes.data) % PAGE == 0


def test_threads_have_lanes_of_their_own(staged: StagedBackend) -> None:
    assert staged.lane() is staged.lane()
    worker = Worker(staged)
    assert staged.lane() is worker.lane
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(staged.lane).result() is not worker.lane
        assert pool.submit(staged.first_nonfinite, [worker.hold(some(1))]).result() is None


def test_an_error_of_a_kernel_passes_through(staged: StagedBackend) -> None:
    held = Worker(staged).hold(some(1))
    with pytest.raises(ValueError, match="k = 0"):
        staged.order_statistic(ImportanceSource("lp", held), 0, threads=1)
    with staged.grouped():
        assert staged.first_nonfinite([held]) is None


def test_copies_and_kernels_are_on_the_lanes_stream_and_awaited_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU: all that is started is started on this worker's stream, and only that stream is waited for."""
    events: list[str] = []

    class Stream:
        def synchronize(self) -> None:
            events.append("wait")

    @contextmanager
    def current(stream: Stream | None) -> Iterator[None]:
        events.append("enter" if isinstance(stream, Stream) else "none")
        yield
        events.append("leave")

    class Kernels(NumpyBackend):
        def taylor_accumulate(self, total: Buffer, grad: Buffer, *, threads: int) -> None:
            events.append("kernel")
            super().taylor_accumulate(total, grad, threads=threads)

    for name in ("upload", "download"):
        original = getattr(Lane, name)

        def noted(lane: Lane, *place: int, name: str = name, original: Any = original) -> None:
            events.append(name)
            original(lane, *place)

        monkeypatch.setattr(Lane, name, noted)
    monkeypatch.setattr(torch.cuda, "stream", current)
    staged = StagedBackend(Kernels(), "cpu")
    worker = Worker(staged)
    worker.lane._stream = Stream()
    events.clear()
    staged.taylor_accumulate(worker.hold(some(1)), worker.hold(some(2)), threads=1)
    assert events == ["enter", "upload", "upload", "kernel", "download", "leave", "wait"]
