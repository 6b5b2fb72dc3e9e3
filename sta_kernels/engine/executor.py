"""What workers do with a tile: read, check, compute, write."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from sta_kernels.checkpoint.entry import KERNEL_DTYPES
from sta_kernels.engine.digests import InputDigests
from sta_kernels.engine.inputs import Inputs
from sta_kernels.engine.jobs import Job, Operand
from sta_kernels.engine.journal import Journal
from sta_kernels.engine.memory import Arena, Budget
from sta_kernels.engine.output import Shards
from sta_kernels.engine.profile import Profile
from sta_kernels.engine.runs import JobRun, Reading
from sta_kernels.engine.tile import Tile
from sta_kernels.errors import InputError
from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer, DType, ImportanceSource
from sta_kernels.kernels.reference.environment import ieee_arithmetic
from sta_kernels.methods.accumulators import nothing
from sta_kernels.methods.base import Method, Operands
from sta_kernels.methods.conversion import convert
from sta_kernels.methods.run import Piece, reduce_pieces
from sta_kernels.methods.statistics import Range, Statistic, update_together
from sta_kernels.methods.subjects import Importance, overflow_advice

_IN_CACHE = 1 << 20
"""Bytes that are read at a time, to be digested before they leave a core's cache."""
_BY_RANGE = ("F16", "BF16", "F32", "F64")
_OVERFLOWS = {
    "F16": ("float16", "write bfloat16 or float32 instead"),
    "BF16": ("bfloat16", "lower the weights, or write float32"),
    "F32": ("float32", "lower the weights"),
    "F64": ("float32, in which all is computed,", "lower the weights"),
}
_COMPARED = 1 << 18
"""Bytes that are compared at a time, so that what the comparison allocates stays small."""


class Executor:
    """Performs tiles, on any thread.

    Args:
        method: the rule.
        backend: its kernels.
        inputs: open checkpoints.
        shards: open output.
        journal: told of every tile that is written.
        digests: of the inputs, fed with what is read.
        budget: of the merge.
        profile: told how long what takes.
        differing: models known to differ from the base.
        varying: models whose importance is known to rank something.
        allow_nonfinite: merge NaN and infinity.
    """

    def __init__(
        self,
        method: Method,
        backend: Backend,
        inputs: Inputs,
        shards: Shards,
        journal: Journal,
        digests: InputDigests,
        budget: Budget,
        profile: Profile,
        *,
        differing: Iterable[int],
        varying: Iterable[int],
        allow_nonfinite: bool,
    ) -> None:
        self._method = method
        self._backend = backend
        self._inputs = inputs
        self._shards = shards
        self._journal = journal
        self._digests = digests
        self._budget = budget
        self._profile = profile
        self._allow_nonfinite = allow_nonfinite
        self._lock = threading.Lock()
        self.differing = set(differing)
        self.varying = set(varying)
        self.warned: dict[str, None] = {}

    def flows(self, job: Job) -> bool:
        """Whether a job's tiles need not fit a worker's memory."""
        return False

    def reduce(self, reading: Reading, start: int, stop: int, arena: Arena) -> int:
        """Take one tile into the statistics that are still open."""
        tile = Tile(reading.job, start, stop)
        self._read(tile, reading.operands, arena, final=False)
        if reading.suspect is not None:
            self._check_finite(tile, reading.operands)
        operands = self._operands(tile, arena)
        if reading.suspect is not None:
            self._check_suspect(reading, operands)
        sources = [statistic.subject.source(operands) for statistic, _ in reading.pending]
        accumulators = [accumulator for _, accumulator in reading.pending]
        with self._profile.timing("statistics"):
            update_together(accumulators, sources, self._backend, reading.offset + start, threads=1)
        return tile.bytes_read

    def finish(self, run: JobRun, start: int, stop: int, arena: Arena) -> int:
        """Write one tile, and say so in the journal."""
        job = run.job
        tile = Tile(job, start, stop)
        self._read(tile, run.operands, arena, final=True)
        if job.action == "compare":
            self._compare(tile)
            return tile.bytes_read
        counts = np.zeros(0, np.int64)
        if job.action == "copy":
            view = tile.view(job.operands[0])
        else:
            view, address = arena.take((stop - start) * job.out_unit)
            out = Buffer(address, KERNEL_DTYPES[job.dtype], tile.shape, None, arena)
            if job.action == "convert":
                with self._profile.timing("merge"):
                    convert(self._backend, tile.buffer(job.operands[0]), out)
                    self._check_conversion(tile, tile.buffer(job.operands[0]), out)
            else:
                counts = self._merge(run, tile, out, arena)
        offset = job.offset + start * job.out_unit
        with self._profile.timing("write"):
            self._shards.write(job.shard, offset, view)
        with self._profile.timing("digest"):
            self._shards.digest(job.shard, offset, view)
        self._note_tile(run, start, stop, counts)
        return tile.bytes_read

    def _note_tile(self, run: JobRun, start: int, stop: int, counts: np.ndarray[Any, Any]) -> None:
        if counts.size:
            with self._lock:
                run.counts += counts
        self._journal.tile(run.index, start, stop, tuple(counts.tolist()))

    def _read(self, tile: Tile, operands: Iterable[Operand], arena: Arena, *, final: bool) -> None:
        """Fill a buffer per operand; in the final pass, the bytes also go into the inputs' digests."""
        for operand in operands:
            view, address = arena.take(tile.job.bytes_of(operand, tile.stop - tile.start))
            offset = 0 if operand.shape is not None else (tile.job.start + tile.start) * tile.job.unit(operand)
            checkpoint = self._inputs.checkpoints[operand.input]
            entry = checkpoint.find(operand.name)
            for start in range(0, len(view), _IN_CACHE):
                part = view[start : start + _IN_CACHE]
                with self._profile.timing("read"):
                    checkpoint.read_into(operand.name, offset + start, part)
                if final and entry is not None:
                    with self._profile.timing("digest"):
                        self._digests.add(entry, offset + start, part)
            tile.put(operand, view, address)

    def _operands(self, tile: Tile, arena: Arena) -> Operands:
        """What was read, with the masks that the method makes of it."""
        job, size = tile.job, tile.stop - tile.start
        if not job.masks:
            return tile.operands()
        assert job.settings is not None
        addresses = [arena.take(size * unit)[1] for unit in job.mask_units]
        room = tuple(Buffer(address, DType.F32, tile.shape, None, arena) for address in addresses)
        return self._method.mask(self._backend, tile.operands(), job.settings, place=job.place, room=room, threads=1)

    def _merge(self, run: JobRun, tile: Tile, out: Buffer, arena: Arena) -> np.ndarray[Any, Any]:
        """Check the operands, then apply the rule; returns what was counted."""
        job = run.job
        assert job.settings is not None
        if not self._allow_nonfinite:
            self._check_finite(tile, run.operands)
        if run.base is not None:
            self._note_differences(tile, run.base, run.models)
        method, backend, operands = self._method, self._backend, self._operands(tile, arena)
        results = run.results
        if run.whole:
            piece = Piece(operands, out, job.place, job.summaries, tuple(results))
            check = partial(self._check_of_piece, job)
            with self._profile.timing("statistics"):
                (results,) = reduce_pieces(method, [piece], job.settings, backend=backend, threads=1, check=check)
        for statistic, result in zip(run.statistics, results[run.shared :], strict=False):
            self.check_result(job, statistic, result)
        self._check_importances(run, self._importance_ranges(run, tile, backend), tile.stop - tile.start)
        counts = np.zeros_like(run.counts)
        with self._profile.timing("merge"):
            method.apply(backend, operands, results, job.settings, place=job.place, out=out, counts=counts, threads=1)
        self._check_overflow(tile, out)
        return counts

    def _check_finite(self, tile: Tile, operands: Sequence[Operand]) -> None:
        found = self._backend.first_nonfinite([tile.buffer(operand) for operand in operands])
        if found is None:
            return
        operand, index = operands[found[0]], found[1]
        single = np.zeros(1, np.float32)
        convert(self._backend, tile.buffer(operand).slice(index, index + 1), Buffer.from_numpy(single))
        entry = self._inputs.checkpoints[operand.input].find(operand.name)
        assert entry is not None
        raise InputError(
            f"{entry.file}: {operand.name!r} is {single[0]} at {tile.position(index, operand)}; repair the tensor, "
            "exclude it to copy the base's, or merge it as it is with --allow-nonfinite (allow_nonfinite=True)"
        )

    def _check_overflow(self, tile: Tile, out: Buffer) -> None:
        """Finite operands may overflow what is written, float16 soonest of all."""
        if not self._allow_nonfinite:
            found = self._backend.first_nonfinite([out])
            if found is not None:
                raise self._overflow(tile, found[1])

    def _check_conversion(self, tile: Tile, source: Buffer, out: Buffer) -> None:
        """What is copied may hold infinities, but none that a narrower type makes of a finite value."""
        if not self._may_overflow(tile.job) or self._backend.first_nonfinite([out]) is None:
            return
        for start in range(0, tile.stop - tile.start, _COMPARED):
            stop = min(start + _COMPARED, tile.stop - tile.start)
            values = np.empty((2, stop - start), np.float64)
            for row, buffer in zip(values, (source, out), strict=True):
                convert(self._backend, buffer.slice(start, stop), Buffer.from_numpy(row))
            overflows = np.isfinite(values[0]) & ~np.isfinite(values[1])
            if overflows.any():
                raise self._overflow(tile, start + int(overflows.argmax()))

    def _overflow(self, tile: Tile, index: int) -> InputError:
        where = tile.position(index)
        dtype, advice = _OVERFLOWS[tile.job.dtype]
        return InputError(f"{tile.job.tensor!r} overflows {dtype} at {where}; {advice}")

    def _may_overflow(self, job: Job) -> bool:
        """Whether what is copied could be finite in its own type, and is not in the one that is written."""
        narrower = _BY_RANGE.index(job.dtype) < _BY_RANGE.index(job.operands[0].dtype)
        return narrower and not self._allow_nonfinite

    def _importance_ranges(self, run: JobRun, tile: Tile, backend: Backend) -> np.ndarray[Any, Any]:
        """Ranges of the importances of which something is to be checked, task by task."""
        importances, tasks = run.job.of_role("importance"), run.checked_tasks
        ends = nothing(len(tasks))
        if tasks:
            sources = [ImportanceSource("lp", tile.buffer(importances[task]), None) for task in tasks]
            with ieee_arithmetic():
                backend.ranges(sources, ends, None, threads=1)
        return ends

    @ieee_arithmetic()
    def _check_importances(self, run: JobRun, ends: np.ndarray[Any, Any], count: int) -> None:
        """Refuse negative importances, and claims of importance files that their tensors belie."""
        importances = run.job.of_role("importance")
        for task, (low, high) in zip(run.checked_tasks, ends, strict=True):
            if task in run.unsigned:
                self._check_sign(importances[task], float(low))
            if low < high:
                self._note_variation(run.job.tasks[task])
            if task in run.claims:
                run.claims[task][1].add(low, high)
        if not run.claims:
            return
        with self._lock:
            run.unseen -= count
            if run.unseen:
                return
        for task, (summary, accumulator) in run.claims.items():
            accumulator.end_of_pass()
            if accumulator.result != (summary.min, summary.max):
                entry = self._inputs.checkpoints[importances[task].input].find(importances[task].name)
                assert entry is not None
                raise InputError(
                    f"{entry.file}: {entry.name!r}: the statistics in its metadata do not describe its tensors; save "
                    "it again"
                )

    def _check_of_piece(self, job: Job, _: int, statistic: Statistic, result: Any) -> None:
        self.check_result(job, statistic, result)

    def _check_suspect(self, reading: Reading, operands: Operands) -> None:
        """Refuse the tile whose values make a statistic overflow."""
        assert reading.suspect is not None
        alone = Range(reading.suspect.subject)
        (ends,) = Range.of_segments([alone], [alone.subject.source(operands)], self._backend, 1)
        self.check_result(reading.job, alone, ends)

    def may_stand(self, result: Any) -> bool:
        """Whether a statistic's result is finite, or need not be."""
        return self._allow_nonfinite or bool(np.isfinite(result).all())

    def check_result(self, job: Job, statistic: Statistic, result: Any) -> None:
        """Refuse a statistic that overflows, and a negative importance."""
        subject = statistic.subject
        if not self.may_stand(result):
            operand = job.of_role("model")[subject.task]
            raise InputError(f"{self._inputs.label(operand.input)}: {job.tensor!r}: {overflow_advice(subject)}")
        if isinstance(statistic, Range) and isinstance(subject, Importance) and subject.measure == "lp":
            self._check_sign(job.of_role("importance")[subject.task], result[0])
            if result[0] < result[1]:
                self._note_variation(job.tasks[subject.task])

    def _check_sign(self, operand: Operand, lowest: float) -> None:
        """Sums of absolute values and squares have no sign: what has one is another file, most likely a model."""
        if -math.inf < lowest < 0:
            entry = self._inputs.checkpoints[operand.input].find(operand.name)
            assert entry is not None
            raise InputError(
                f"{entry.file}: {operand.name!r} holds negative values, down to {lowest:.6g}; an importance is "
                "never negative: is this a model?"
            )

    def _note_differences(self, tile: Tile, base: Operand, models: Iterable[Operand]) -> None:
        """Find out, as cheaply as can be, whether each model differs from the base anywhere."""
        for i, operand in zip(tile.job.tasks, models, strict=True):
            if i in self.differing or not tile.has(operand):
                continue
            if operand.dtype != base.dtype or not _same_bytes(tile.view(base), tile.view(operand)):
                self._note_difference(i)

    def _note_difference(self, model: int) -> None:
        with self._lock:
            if model not in self.differing:
                self.differing.add(model)
                self._journal.differs(model)

    def _note_variation(self, model: int) -> None:
        if model not in self.varying:
            with self._lock:
                if model not in self.varying:
                    self.varying.add(model)
                    self._journal.varies(model)

    def _compare(self, tile: Tile) -> None:
        first, *others = tile.job.operands
        for operand in others:
            if not self._same_values(tile, first, operand):
                message = tile.job.differing.replace("{}", self._inputs.label(operand.input))
                if tile.job.refuse:
                    raise InputError(message)
                with self._lock:
                    self.warned[message] = None

    def _same_values(self, tile: Tile, one: Operand, other: Operand) -> bool:
        """Equal bytes, or, of floating tensors, equal values."""
        if one.dtype == other.dtype and _same_bytes(tile.view(one), tile.view(other)):
            return True
        if one.dtype not in KERNEL_DTYPES or other.dtype not in KERNEL_DTYPES:
            return False
        for start in range(0, tile.stop - tile.start, _COMPARED):
            stop = min(start + _COMPARED, tile.stop - tile.start)
            values = np.empty((2, stop - start), np.float64 if "F64" in (one.dtype, other.dtype) else np.float32)
            for row, operand in zip(values, (one, other), strict=True):
                convert(self._backend, tile.buffer(operand).slice(start, stop), Buffer.from_numpy(row))
            if not np.array_equal(values[0], values[1]):
                return False
        return True


def _same_bytes(one: memoryview, other: memoryview) -> bool:
    for start in range(0, len(one), _COMPARED):
        piece = np.frombuffer(one[start : start + _COMPARED], np.uint8)
        if not np.array_equal(piece, np.frombuffer(other[start : start + _COMPARED], np.uint8)):
            return False
    return True
