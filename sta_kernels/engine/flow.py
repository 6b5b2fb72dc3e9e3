"""What workers do with a tile whose bytes can flow through the native core: one call reads, merges and writes it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sta_kernels.checkpoint.digest import BLOCK
from sta_kernels.checkpoint.entry import KERNEL_DTYPES
from sta_kernels.checkpoint.positioned import ended_early, read_failed, write_failed
from sta_kernels.checkpoint.source import SafetensorsSource
from sta_kernels.engine.executor import Executor
from sta_kernels.engine.flowing import flows
from sta_kernels.engine.jobs import Job, Operand
from sta_kernels.engine.memory import Arena
from sta_kernels.engine.runs import JobRun, Reading, tile_units, tiles
from sta_kernels.engine.tile import Tile
from sta_kernels.kernels.backend import LEAF, Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.native import NativeBackend
from sta_kernels.kernels.native_flow import (
    ENDED,
    FAILED,
    NONFINITE,
    Channel,
    DigestState,
    Recorder,
    Report,
    can_flow,
)
from sta_kernels.methods.accumulators import nothing
from sta_kernels.methods.bracket import RUN
from sta_kernels.methods.conversion import convert
from sta_kernels.methods.statistics import take_together

SLICE = 5 << 18
"""Bytes of operands and result that are held at once: with what kernels work in, they stay in a core's own cache."""


def executor_type(backend: Backend) -> type[Executor]:
    """How tiles are performed best with these kernels, on this system."""
    return FlowExecutor if isinstance(backend, NativeBackend) and can_flow() else Executor


@dataclass(frozen=True)
class _Noted:
    """The steps of a pass, and where their results will be.

    Attributes:
        tile: the first slice, with the buffers of all.
        slice: elements of one.
        out: address of the result's slice.
        finite: number of the step that looks for NaN and infinity among the operands; −1 for none.
        differs: per model, whether it differs from the base.
        ends: ranges of importances.
        counts: of the method.
    """

    tile: Tile
    slice: int
    out: int
    finite: int
    differs: Mapping[int, np.ndarray[Any, Any]]
    ends: np.ndarray[Any, Any]
    counts: np.ndarray[Any, Any]


class FlowExecutor(Executor):
    """Performs tiles slice by slice where the method works element by element on plain files; else as any executor."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._worker = threading.local()
        self._flowing: dict[int, bool] = {}

    def flows(self, job: Job) -> bool:
        """See :func:`sta_kernels.engine.flowing.flows`."""
        known = self._flowing.get(id(job))  # jobs are the plan's, and outlive this
        if known is None:
            known = self._flowing[id(job)] = flows(job, self._method, self._inputs)
        return known

    def reduce(self, reading: Reading, start: int, stop: int, arena: Arena) -> int:
        """See :meth:`Executor.reduce`."""
        job, count, operands = reading.job, stop - start, reading.operands
        accumulators = [accumulator for _, accumulator in reading.pending]
        in_memory = any(accumulator.in_memory for accumulator in accumulators)
        if in_memory or reading.suspect is not None or not self.flows(job):
            return super().reduce(reading, start, stop, arena)
        recorder = Recorder()
        tile, slice_ = self._slices(job, operands, 0, start, stop, arena)
        if reading.stride is not None:
            slice_, tile = RUN, tile.part(start, min(start + RUN, stop))
        sources = [statistic.subject.source(tile.operands()) for statistic, _ in reading.pending]
        settles = take_together(accumulators, sources, recorder, reading.offset + start, count, threads=1)
        with ExitStack() as stack:
            _, reads = self._reads(stack, tile, operands, start, stop, digested=False)
            self._run(recorder, count, slice_, job, operands, reads, None, "statistics", reading.stride)
        for settle in settles:
            settle()
        if reading.stride is not None:  # what a sample reads is not worth telling
            return 0
        return sum(count * job.unit(operand) for operand in operands)

    def finish(self, run: JobRun, start: int, stop: int, arena: Arena) -> int:
        """See :meth:`Executor.finish`."""
        if run.whole or not self.flows(run.job):
            return super().finish(run, start, stop, arena)
        job, count, operands = run.job, stop - start, run.operands
        recorder = Recorder()
        noted = self._note(run, start, stop, arena, recorder)
        first, last = (job.offset + unit * job.out_unit for unit in (start, stop))
        with ExitStack() as stack:
            files, reads = self._reads(stack, noted.tile, operands, start, stop, digested=True)
            fd, digest = self._shards.descriptor(job.shard), self._digest_of(job.shard)
            out = Channel(fd, first, last, job.out_unit, noted.out, digest, BLOCK)
            report = self._run(recorder, count, noted.slice, job, operands, reads, out, "merge")
            if report.problem == NONFINITE and job.action == "convert":  # an infinity of its own may stay
                return self._finish_held(run, start, stop, arena)
            if report.problem == NONFINITE:
                self._refuse(report, noted, run)
        with self._profile.timing("digest"):
            for file, channel in zip(files, reads, strict=True):
                self._digests.passed(file, channel.start, channel.stop, *channel.digests)
            self._shards.passed(job.shard, out.start, out.stop, *out.digests)
        for model, differs in noted.differs.items():
            if differs:
                self._note_difference(model)
        if run.checked_tasks:
            self._check_importances(run, noted.ends, count)
        self._note_tile(run, start, stop, noted.counts)
        return sum(count * job.unit(operand) for operand in operands)

    def _finish_held(self, run: JobRun, start: int, stop: int, arena: Arena) -> int:
        """Write a tile by pieces that are held in memory, where more can be asked of each."""
        job, done = run.job, 0
        step = tile_units(job, run.operands, job.out_unit, min(self._budget.tile, self._budget.arena))
        for first, last in tiles([(start, stop)], step):
            arena.reset()
            done += super().finish(run, first, last, arena)
        return done

    def _slices(
        self, job: Job, operands: Sequence[Operand], out_unit: int, start: int, stop: int, arena: Arena
    ) -> tuple[Tile, int]:
        """The first slice of a tile, with the buffers that serve all of them, and the elements of one."""
        slice_ = tile_units(job, operands, out_unit, min(SLICE, self._budget.arena))
        slice_ = min(slice_, -(-(stop - start) // LEAF) * LEAF)
        tile = Tile(job, start, min(start + slice_, stop))
        for operand in operands:
            tile.put(operand, *arena.take(slice_ * job.unit(operand)))
        return tile, slice_

    def _reads(
        self, stack: ExitStack, tile: Tile, operands: Iterable[Operand], start: int, stop: int, *, digested: bool
    ) -> tuple[list[Path], list[Channel]]:
        """Where the operands of a tile are read from."""
        files: list[Path] = []
        reads = []
        for operand in operands:
            source, first, last = self._range(tile.job, operand, start, stop)
            fd = stack.enter_context(source.descriptor())
            digest = None
            if digested:  # of a file that serves two operands, as layers of one model may, only one range goes on
                digest = DigestState() if source.file in files else self._digest_of(source.file)
            reads.append(Channel(fd, first, last, tile.job.unit(operand), tile.address(operand), digest, BLOCK))
            files.append(source.file)
        return files, reads

    def _run(
        self,
        recorder: Recorder,
        count: int,
        slice_: int,
        job: Job,
        operands: Sequence[Operand],
        reads: Sequence[Channel],
        out: Channel | None,
        stage: str,
        stride: int | None = None,
    ) -> Report:
        """Make the pass; what computing takes is charged to the stage."""
        report = recorder.run(count, slice_, reads, out, BLOCK, stride)
        for each, seconds in zip(("read", "digest", stage, "write"), report.seconds, strict=True):
            self._profile.charge(each, seconds)
        if report.problem not in (FAILED, ENDED):
            return report
        if report.channel == len(operands):
            raise write_failed(self._shards.temporary(job.shard), report.position, os.strerror(report.detail))
        source, *_ = self._range(job, operands[report.channel], 0, 0)
        if report.problem == ENDED:
            raise ended_early(source.file, report.position, report.detail)
        raise read_failed(source.file, report.position, os.strerror(report.detail))

    def _note(self, run: JobRun, start: int, stop: int, arena: Arena, recorder: Recorder) -> _Noted:
        """Buffers of a slice, and what is done with each slice."""
        job = run.job
        tile, slice_ = self._slices(job, run.operands, job.out_unit, start, stop, arena)
        if job.action == "copy":
            return _Noted(tile, slice_, tile.address(job.operands[0]), -1, {}, nothing(0), np.zeros(0, np.int64))
        _, address = arena.take(slice_ * job.out_unit)
        out = Buffer(address, KERNEL_DTYPES[job.dtype], tile.shape, None, arena)
        if job.action == "convert":
            convert(recorder, tile.buffer(job.operands[0]), out)
            if self._may_overflow(job):
                recorder.check_finite([out])
            return _Noted(tile, slice_, address, -1, {}, nothing(0), np.zeros(0, np.int64))
        return self._note_merge(run, tile, slice_, out, recorder)

    def _note_merge(self, run: JobRun, tile: Tile, slice_: int, out: Buffer, recorder: Recorder) -> _Noted:
        """The checks of :meth:`Executor._merge`, and its rule, as steps."""
        job, finite, differs = run.job, -1, {}
        assert job.settings is not None
        if not self._allow_nonfinite:
            finite = recorder.check_finite([tile.buffer(operand) for operand in run.operands])
        if run.base is not None:
            for i, operand in zip(job.tasks, run.models, strict=True):
                if i in self.differing or not tile.has(operand):
                    continue
                if operand.dtype == run.base.dtype:
                    differs[i] = recorder.differs(tile.buffer(run.base), tile.buffer(operand))
                else:
                    self._note_difference(i)
        for statistic, result in zip(run.statistics, run.results[run.shared :], strict=False):
            self.check_result(job, statistic, result)
        ends, counts = self._importance_ranges(run, tile, recorder), np.zeros_like(run.counts)
        operands = tile.operands()
        self._method.apply(
            recorder, operands, run.results, job.settings, place=job.place, out=out, counts=counts, threads=1
        )
        if not self._allow_nonfinite:
            recorder.check_finite([out])
        return _Noted(tile, slice_, out.address, finite, differs, ends, counts)

    def _range(self, job: Job, operand: Operand, start: int, stop: int) -> tuple[SafetensorsSource, int, int]:
        """An operand's file, and its tile's bytes there."""
        flat = self._inputs.checkpoints[operand.input].flat(operand.name)
        assert flat is not None
        source, offset = flat
        unit = job.unit(operand)
        return source, offset + (job.start + start) * unit, offset + (job.start + stop) * unit

    def _digest_of(self, file: Path | int) -> DigestState:
        """This worker's digest of a file: it goes on from tile to tile while these follow each other."""
        states: dict[Path | int, DigestState] = self._worker.__dict__.setdefault("digests", {})
        if file not in states:
            states[file] = DigestState()
        return states[file]

    def _refuse(self, report: Report, noted: _Noted, run: JobRun) -> None:
        """Raise what is to be said of a slice that holds a NaN or infinity: among its operands, or in its result."""
        begin = noted.tile.start + report.position - report.detail
        part = noted.tile.part(begin, min(begin + noted.slice, run.job.size))
        if report.step == noted.finite:
            self._check_finite(part, run.operands)
        raise self._overflow(part, report.detail)
