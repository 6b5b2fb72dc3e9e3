"""Passes over files in the native core: slices are read, digested, computed on and written while they are in cache."""

from __future__ import annotations

import ctypes
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.formula import FormulaSource, SoughtCut, Source
from sta_kernels.kernels.native import NativeBackend
from sta_kernels.kernels.native_calls import (
    SIGNATURES,
    Collector,
    Formulas,
    Sources,
    Table,
    address_of,
    check_status,
    load_core,
)
from sta_kernels.kernels.reference.environment import ieee_arithmetic

_STEPS = (
    "sta_merge",
    "sta_weighted_sum",
    "sta_evaluate",
    "sta_forget",
    "sta_ranges",
    "sta_histogram",
    "sta_count_equal",
    "sta_first_nonfinite",
    "differs",
    "sta_collect",
    "find_cut",
)
"""By their code in ``bindings/include/sta_core.h``."""
_WORDS = 15
_CHANNEL_WORDS = 7
_DIGEST_WORDS = 160
STAGES = ("read", "digest", "compute", "write")
FAILED, ENDED, NONFINITE = 1, 2, 3
"""What a report may call a problem."""


def can_flow() -> bool:
    """Whether this system has what it takes: positioned reads and writes."""
    return bool(load_core().sta_can_flow())


class DigestState:
    """The digest of a file on its way, from range to range as long as each begins where the last one ended."""

    __slots__ = ("_words",)

    def __init__(self) -> None:
        self._words = array("q", bytes(8 * _DIGEST_WORDS))

    @property
    def address(self) -> int:
        """Of its memory."""
        return self._words.buffer_info()[0]

    @property
    def given(self) -> tuple[int, int]:
        """Number of the first block that the last pass digested, and how many it did."""
        return self._words[1], self._words[2]


class Channel:
    """The elements of a tensor in a file, and where a slice of them is held.

    Args:
        fd: descriptor of the open file.
        start: byte of the range's first element in the file.
        stop: byte after its last.
        unit: bytes per element.
        address: of the slice.
        digest: of the file, or None.
        block: bytes per digest.
    """

    __slots__ = ("_digest", "_rows", "start", "stop", "words")

    def __init__(
        self, fd: int, start: int, stop: int, unit: int, address: int, digest: DigestState | None, block: int
    ) -> None:
        self.start, self.stop = start, stop
        self._digest = digest
        self._rows = bytearray(16 * (stop // block - start // block)) if digest is not None else bytearray()
        rows = ctypes.addressof(ctypes.c_char.from_buffer(self._rows)) if self._rows else 0
        self.words = (fd, start, unit, address, 0 if digest is None else digest.address, rows, len(self._rows) // 16)

    @property
    def digests(self) -> tuple[int, bytes]:
        """Number of the first block whose digest was taken, and the digests from there on, 16 bytes each."""
        if self._digest is None:
            return 0, b""
        first, count = self._digest.given
        return first, bytes(self._rows[: 16 * count])


@dataclass(frozen=True)
class Report:
    """How a pass ended.

    Attributes:
        problem: 0, :data:`FAILED`, :data:`ENDED` or :data:`NONFINITE`.
        channel: in which it was; of a NONFINITE, the operand of its step.
        step: in which it was.
        position: byte in the file; of a NONFINITE, element of the range.
        detail: errno; bytes that are missing; element of the slice.
        seconds: by :data:`STAGES`.
    """

    problem: int
    channel: int
    step: int
    position: int
    detail: int
    seconds: tuple[float, ...]


class Recorder(NativeBackend):
    """A backend that notes calls of kernels, on buffers of one slice, instead of making them.

    What a call adds to, or folds into, holds the result once :meth:`run` has returned.

    Args:
        isa: as of :class:`NativeBackend`.
    """

    def __init__(self, isa: str | None = None) -> None:
        super().__init__(isa)
        self._steps: list[bytes] = []
        self._kept: list[Any] = []

    def _call(self, name: str, threads: int, *arguments: Any, keep: object = None) -> None:
        self._kept.append(keep)
        words = [
            struct.pack("<d", value) if kind is ctypes.c_float else struct.pack("<q", value or 0)
            for kind, value in zip(SIGNATURES[name], arguments, strict=False)
        ]
        self._note(name, words)

    def _note(self, name: str, words: Sequence[bytes]) -> None:
        self._steps.append(struct.pack("<q", _STEPS.index(name)) + b"".join(words).ljust(8 * _WORDS, b"\0"))

    def sta_merge(self, *operands: Any, normaliser_address: int, **arguments: Any) -> None:
        """Notes it, with a copy of the normaliser, which its owner may give up before the pass."""
        n_tasks = len(operands[1])
        normaliser = ctypes.create_string_buffer(ctypes.string_at(normaliser_address, 8 * n_tasks), 8 * n_tasks)
        self._kept.append(normaliser)
        super().sta_merge(*operands, normaliser_address=ctypes.addressof(normaliser), **arguments)

    @ieee_arithmetic()
    def count_equal(self, source: Source, value: float, *, counts: np.ndarray[Any, Any], threads: int) -> Any:
        """Notes it; returns an int64 array of no dimension."""
        given, greater = Sources([source]), np.zeros((), np.int64)
        arguments = (source.size, *given.arguments, value, address_of(counts), address_of(greater))
        self._call("sta_count_equal", threads, *arguments, keep=(given, greater, counts))
        return greater

    def evaluate(self, source: FormulaSource, *, out: Buffer, threads: int) -> None:
        """Notes it, after the search for cuts that are not known yet."""
        formula, result = Formulas([source], seeks=True), Table([out])
        for index, number in enumerate(source.formula.integers):
            if isinstance(number, SoughtCut):
                self._find(number, source, formula.integers + 8 * index)
        self._call("sta_evaluate", threads, out.size, formula.address, result[0], keep=(formula, result))

    def _find(self, cut: SoughtCut, source: FormulaSource, found: int) -> None:
        models = tuple(source.models[model] for model in cut.models)
        given = Sources([FormulaSource(cut.field, models, source.base, (), source.offset)])
        left = array("q", (cut.count,))
        self._kept.append((given, left))
        edges = (cut.first - source.offset, cut.last - source.offset)
        words = [struct.pack("<q", word or 0) for word in (source.size, *given.arguments)]
        words.append(struct.pack("<d", cut.value))
        words += (struct.pack("<q", word) for word in (*edges, left.buffer_info()[0], found))
        self._note("find_cut", words)

    def collect(self, source: Source, collector: Collector) -> None:
        """Notes that keys of a source that lie within a window are set aside."""
        given = Sources([source])
        words = (source.size, *given.arguments, collector.address, collector.part, collector.marks)
        self._kept.append((given, collector))
        self._note("sta_collect", [struct.pack("<q", word or 0) for word in words])

    def check_finite(self, buffers: Sequence[Buffer]) -> int:
        """Notes that the pass ends at the first NaN or infinity; returns the number of the step."""
        table = Table(buffers)
        self._call("sta_first_nonfinite", 1, buffers[0].size, len(buffers), table[0], keep=table)
        return len(self._steps) - 1

    def differs(self, one: Buffer, other: Buffer) -> np.ndarray[Any, Any]:
        """Notes a comparison of bytes; returns an int64 array of no dimension, 1 where any differs."""
        found = np.zeros((), np.int64)
        self._kept.append(found)
        words = (one.address, other.address, one.dtype.itemsize, address_of(found))
        self._note("differs", [struct.pack("<q", word) for word in words])
        return found

    def run(
        self,
        n: int,
        slice_: int,
        reads: Sequence[Channel],
        out: Channel | None,
        block: int,
        stride: int | None = None,
    ) -> Report:
        """Make the pass.

        Args:
            n: elements of the range.
            slice_: elements that are held at once.
            reads: operands.
            out: result, or None.
            block: bytes per digest.
            stride: from one slice to the next, a multiple of 4,096; more than a slice takes a sample. None: a slice.
        """
        channels = array("q", [word for channel in reads for word in channel.words])
        if out is not None:
            channels.extend(out.words)
        steps = ctypes.create_string_buffer(b"".join(self._steps))
        first = channels.buffer_info()[0]
        last = 0 if out is None else first + 8 * _CHANNEL_WORDS * len(reads)
        job = array(
            "q",
            (n, slice_, stride or slice_, len(reads), len(self._steps), first, last, ctypes.addressof(steps), block),
        )
        job.extend((self._isa, self._tile))
        report = array("q", bytes(8 * 9))
        check_status("sta_flow", self._core.sta_flow(job.buffer_info()[0], report.buffer_info()[0]))
        problem, channel, step, position, detail, *nanoseconds = report
        return Report(problem, channel, step, position, detail, tuple(each * 1e-9 for each in nanoseconds))
