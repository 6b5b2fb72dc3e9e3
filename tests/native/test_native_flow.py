"""Passes over files: digests, steps and results are those of the same calls on whole tensors in memory."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from sta_kernels.kernels.buffers import Buffer, DType, ImportanceSource
from sta_kernels.kernels.formula import Formula, FormulaSource
from sta_kernels.kernels.native import NativeBackend, available_isas
from sta_kernels.kernels.native_flow import ENDED, FAILED, NONFINITE, Channel, DigestState, Recorder, can_flow
from sta_kernels.methods.accumulators import (
    CutAccumulator,
    GreaterAccumulator,
    RangeAccumulator,
    SelectAccumulator,
    SumAccumulator,
)
from sta_kernels.methods.statistics import take_together

pytestmark = pytest.mark.skipif(not can_flow(), reason="this system has no positioned reads")

BYTES = np.random.default_rng(0).integers(0, 256, 300_017, np.uint8)
N, SLICE, PREFIX = 3 * 4096 + 1234, 4096, 40
"""Elements of a tensor, of a slice, and bytes before it in its file."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    path = tmp_path_factory.mktemp("flow") / "data"
    path.write_bytes(BYTES.tobytes())
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def held(count: int, dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    return np.zeros(count, dtype)


@given(
    st.lists(st.integers(0, len(BYTES)), min_size=2, max_size=12),
    st.sampled_from([1024, 4096, 1 << 14]),
    st.sampled_from(available_isas()),
)
@settings(deadline=None, max_examples=60)
def test_digests_go_on_from_range_to_range(data: int, cuts: list[int], block: int, isa: str) -> None:
    """Of every block that lies between the first cut and the last, wherever the others are."""
    state, room, found = DigestState(), held(8192), {}
    edges = sorted(cuts)
    for start, stop in itertools.pairwise(edges):
        channel = Channel(data, start, stop, 1, room.ctypes.data, state, block)
        assert Recorder(isa).run(stop - start, 8192, [channel], None, block).problem == 0
        first, digests = channel.digests
        found.update(enumerate((digests[i : i + 16] for i in range(0, len(digests), 16)), first))
    whole = range(-(-edges[0] // block), edges[-1] // block)
    assert found == {i: xxhash.xxh3_128_digest(BYTES[i * block : (i + 1) * block].tobytes()) for i in whole}


def test_digests_begin_anew_where_a_range_does_not_follow(data: int) -> None:
    state, room = DigestState(), held(8192)
    for start, stop in ((0, 1500), (3000, 9000)):
        channel = Channel(data, start, stop, 1, room.ctypes.data, state, 1024)
        Recorder().run(stop - start, 8192, [channel], None, 1024)
    want = [xxhash.xxh3_128_digest(BYTES[i * 1024 : (i + 1) * 1024].tobytes()) for i in range(3, 8)]
    assert channel.digests == (3, b"".join(want))


class Files:
    """Tensors in files of their own, with a prefix, and slices of them in memory."""

    def __init__(self, folder: Path, tensors: dict[str, np.ndarray[Any, Any]], dtypes: dict[str, DType]) -> None:
        self.whole = {name: Buffer.from_numpy(values) for name, values in tensors.items()}
        self.slices: dict[str, Buffer] = {}
        self.channels: dict[str, Channel] = {}
        self.fds: list[int] = []
        for name, values in tensors.items():
            path = folder / name
            path.write_bytes(bytes(PREFIX) + values.tobytes())
            fd = os.open(path, os.O_RDWR)
            self.fds.append(fd)
            room = held(SLICE * values.itemsize)
            self.slices[name] = Buffer(room.ctypes.data, dtypes[name], (SLICE,), None, room)
            stop = PREFIX + values.nbytes
            self.channels[name] = Channel(fd, PREFIX, stop, values.itemsize, room.ctypes.data, None, 1024)

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    generator = np.random.default_rng(1)
    tensors = {name: generator.standard_normal(N).astype(np.float32) for name in ("base", "a", "b", "ia", "ib")}
    tensors["a"][::7] = tensors["base"][::7] + np.float32(0.5)  # ties
    tensors["out"] = np.zeros(N, np.float32)
    made = Files(tmp_path, tensors, dict.fromkeys(tensors, DType.F32))
    yield made
    made.close()


def written(files: Files) -> np.ndarray[Any, Any]:
    return np.frombuffer(os.pread(files.fds[-1], 4 * N, PREFIX), np.float32)


RULES = {
    "weighted_sum": lambda backend, o, out, extra: backend.weighted_sum(
        o["base"], [o["a"], o["b"]], weights=[0.3, 0.7], divisor=1.5, lambda_=0.9, out=out, threads=1
    ),
    "evaluate": lambda backend, o, out, extra: backend.evaluate(
        FormulaSource(
            Formula(
                "sparse_sum",
                (2, 1, 1),
                (0.7, 1.0, 1.0),
                ((0.5, 2.0, np.inf, -1.0),) * 2,
                (42, 7, 0, 0, 1 << 31, 0, 0, 0, 1 << 31, 1),
            ),
            (o["a"], o["b"]),
            o["base"],
            (),
            12,
        ),
        out=out,
        threads=1,
    ),
    "sta_merge": lambda backend, o, out, extra: backend.sta_merge(
        o["base"], [o["a"], o["b"]], [o["ia"], o["ib"]],
        measure="lp", normaliser_address=np.array([[0.1, 2.0], [0.2, 3.0]], np.float32).ctypes.data, k=1, ties="drop",
        weights=[1.0, 0.5], lambda_=1.1, out=out, counts_address=extra.ctypes.data, threads=1,
    ),
    "sta_forget": lambda backend, o, out, extra: backend.sta_forget(
        o["a"], o["base"], o["b"], ImportanceSource("lp", o["ia"], None),
        threshold=0.2, weight=0.5, lambda_=1.2, out=out, counts_address=extra.ctypes.data, threads=1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_results_are_those_of_the_whole(files: Files, rule: str) -> None:
    """Bits, counts, draws by an element's index; the normaliser of ``sta_merge`` is gone before the pass."""
    recorder, noted, counted = Recorder(), held(3, np.int64), held(3, np.int64)
    RULES[rule](recorder, files.slices, files.slices["out"], noted)
    reads = [channel for name, channel in files.channels.items() if name != "out"]
    assert recorder.run(N, SLICE, reads, files.channels["out"], 1024).problem == 0
    expected = np.zeros(N, np.float32)
    RULES[rule](NativeBackend(), files.whole, Buffer.from_numpy(expected), counted)
    assert np.array_equal(written(files).view(np.uint32), expected.view(np.uint32))
    assert np.array_equal(noted, counted)


ACCUMULATORS = {
    "range": RangeAccumulator,
    "sum": lambda: SumAccumulator(N, lambda total, n: total, N),
    "select": lambda: SelectAccumulator(N // 2),
    "greater": lambda: GreaterAccumulator(0.5),
    "cut": lambda: CutAccumulator(0.5, N // 3, N),
}


@pytest.mark.parametrize("kind", ACCUMULATORS)
@pytest.mark.parametrize("formula", [False, True])
def test_statistics_are_those_of_the_whole(files: Files, kind: str, formula: bool) -> None:
    def source(operands: dict[str, Buffer]) -> Any:
        if formula:
            return FormulaSource(Formula("distance"), (operands["a"],), operands["base"], (), 0)
        return ImportanceSource("lp_amp", operands["ia"], operands["a"])

    noting, whole = ACCUMULATORS[kind](), ACCUMULATORS[kind]()
    reads = [files.channels[name] for name in ("base", "a", "ia")]
    for _ in range(3):
        if noting.wanted is not None:  # a leaf, which is looked at in memory
            assert noting.wanted == whole.wanted
            noting = whole
            break
        recorder = Recorder()
        settle = noting.take(recorder, source(files.slices), 0, N, threads=1)
        assert recorder.run(N, SLICE, reads, None, 1024).problem == 0
        settle()
        whole.take(NativeBackend(), source(files.whole), 0, N, threads=1)()
        ends = whole.end_of_pass()
        assert noting.end_of_pass() == ends
        if ends:
            break
    assert noting.result == whole.result


def test_sums_that_share_operands_are_those_of_the_whole(files: Files) -> None:
    """In one step, in which the formulas' offsets and the places of the sums advance from slice to slice."""

    def sources(operands: dict[str, Buffer]) -> list[FormulaSource]:
        kept = Formula("sparse_distance", (2, 0, 0), (), ((1.0, 1.0, np.inf, -1.0),), (7, 42, 0, 0, 1 << 31, 0))
        return [
            FormulaSource(formula, (operands[model],), operands["base"], (), 12)
            for model in ("a", "b")
            for formula in (Formula("distance"), kept)
        ]

    recorder, noting = Recorder(), [ACCUMULATORS["sum"]() for _ in range(4)]
    settles = take_together(noting, sources(files.slices), recorder, 0, N, threads=1)
    reads = [files.channels[name] for name in ("base", "a", "b")]
    assert recorder.run(N, SLICE, reads, None, 1024).problem == 0
    for settle in settles:
        settle()
    for accumulator, source in zip(noting, sources(files.whole), strict=True):
        whole = ACCUMULATORS["sum"]()
        whole.take(NativeBackend(), source, 0, N, threads=1)()
        assert accumulator.end_of_pass()
        assert whole.end_of_pass()
        assert accumulator.result == whole.result != 0


@pytest.mark.parametrize("where", [0, 4095, 4096, N - 1])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_first_nonfinite_ends_the_pass(files: Files, where: int, value: float) -> None:
    os.pwrite(files.fds[2], np.float32(value).tobytes(), PREFIX + 4 * where)
    recorder = Recorder()
    step = recorder.check_finite([files.slices["a"], files.slices["b"]])
    report = recorder.run(N, SLICE, [files.channels["a"], files.channels["b"]], None, 1024)
    assert (report.problem, report.step, report.channel) == (NONFINITE, step, 1)
    assert (report.position, report.detail) == (where, where % SLICE)


def test_differences_are_seen_in_any_slice(files: Files) -> None:
    os.pwrite(files.fds[2], os.pread(files.fds[1], 4 * N, PREFIX), PREFIX)
    for last in (False, True):
        if last:
            os.pwrite(files.fds[2], b"\xff", PREFIX + 4 * N - 1)
        recorder = Recorder()
        differs = recorder.differs(files.slices["a"], files.slices["b"])
        recorder.run(N, SLICE, [files.channels["a"], files.channels["b"]], None, 1024)
        assert bool(differs) == last


def test_a_file_that_ends_early_is_reported(files: Files) -> None:
    os.ftruncate(files.fds[1], PREFIX + 4 * 5000)
    report = Recorder().run(N, SLICE, [files.channels["base"], files.channels["a"]], None, 1024)
    assert (report.problem, report.channel, report.position) == (ENDED, 1, PREFIX + 4 * 5000)
    assert report.detail == 4 * (2 * SLICE - 5000)


@pytest.mark.parametrize("writes", [False, True])
def test_a_descriptor_that_serves_nothing_is_reported(files: Files, writes: bool) -> None:
    room = held(4 * SLICE)
    closed = Channel(1 << 20, 0, 4 * N, 4, room.ctypes.data, None, 1024)
    reads, out = ([files.channels["a"]], closed) if writes else ([closed], None)
    report = Recorder().run(N, SLICE, reads, out, 1024)
    assert (report.problem, report.channel, report.detail) == (FAILED, len(reads) - (not writes), errno.EBADF)


def test_arguments_are_checked(data: int) -> None:
    channel = Channel(data, 0, 4096, 1, held(4096).ctypes.data, DigestState(), 1024)
    for slice_, block in ((4095, 1024), (0, 1024), (4096, 1000), (4096, 0)):
        with pytest.raises(RuntimeError, match="sta_flow: an argument"):
            Recorder().run(4096, slice_, [channel], None, block)
