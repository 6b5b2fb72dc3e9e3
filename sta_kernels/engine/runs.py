"""One job on its way: its tiles, pass after pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sta_kernels.engine.flowing import read_whole
from sta_kernels.engine.jobs import Job, Operand
from sta_kernels.engine.memory import PAGE, Arena, Budget
from sta_kernels.kernels.formula import SoughtCut
from sta_kernels.methods.accumulators import Accumulator, CutAccumulator, RangeAccumulator
from sta_kernels.methods.base import Method
from sta_kernels.methods.bracket import BracketAccumulator, bracketed, shown
from sta_kernels.methods.run import known_of
from sta_kernels.methods.statistics import OrderStatistic, Statistic, Summary, TieCut
from sta_kernels.methods.statistics import Range as RangeStatistic
from sta_kernels.methods.subjects import Field, Importance

Range = tuple[int, int]


@dataclass(frozen=True)
class Reading:
    """A pass over a segment for its statistics.

    Attributes:
        job: whose segment it is.
        operands: that are read.
        pending: statistics that take it in.
        offset: of the segment's first element among all that they are taken over.
        suspect: a statistic that was not finite: this pass is in search of the tensor that makes it so.
        stride: elements from one run of a sample to the next, where no more than that is read.
    """

    job: Job
    operands: Sequence[Operand]
    pending: Sequence[tuple[Statistic, Accumulator]]
    offset: int = 0
    suspect: Statistic | None = None
    stride: int | None = None


Reduce = Callable[[Reading, int, int, Arena], int]
Finish = Callable[["JobRun", int, int, Arena], int]


class JobRun:
    """The state of one job, as an activity of the scheduler.

    A segment that needs statistics and fits a worker's memory is one task, which reads it once. Any other goes through
    as tiles: first in as many passes as its statistics ask for, then in the pass that writes.

    Args:
        index: of the job in the plan.
        job: to be done.
        method: of the plan.
        budget: of the merge.
        done: ranges that an earlier run has written, and what was counted there.
        earlier: results of the rounds over its block or the model.
        reduce: takes one tile into the accumulators; returns the bytes it read.
        finish: writes one tile.
        flows: whether a tile need not fit a worker's memory.
        finite: whether the merge is refused where there is a NaN. Brackets take one for the greatest magnitude, which
            it is when they are ordered, but it is not above any threshold.
    """

    def __init__(
        self,
        index: int,
        job: Job,
        method: Method,
        budget: Budget,
        done: Iterable[tuple[int, int, tuple[int, ...]]],
        earlier: Sequence[Any],
        reduce: Reduce,
        finish: Finish,
        flows: bool = False,
        finite: bool = True,
    ) -> None:
        self.index = index
        self.job = job
        counters = method.counters(len(job.of_role("model"))) if job.action == "merge" else ()
        self.counts = np.zeros(len(counters), np.int64)
        self.statistics: list[Statistic] = []
        self.results: list[Any] = list(earlier)
        self.pending: dict[int, tuple[Statistic, Accumulator]] = {}
        self._brackets: list[tuple[Statistic, BracketAccumulator]] = []
        self._room = budget.spare // budget.threads
        self._finite = finite
        self.base = next(iter(job.of_role("base")), None)
        self.models = job.of_role("model")
        self._reduce = reduce
        self._finish = finish
        self._tile_bytes = min(budget.tile, budget.arena)
        self.flows = flows
        self._flow_bytes = budget.flow if flows else self._tile_bytes
        self._method = method
        self.shared = len(self.results)
        self.whole = read_whole(job, method, budget, flowing=flows)
        self._claimed = list(self._claims_of(method))
        self._remaining = self._what_remains(list(done))
        self.finished = not self._remaining
        if not (self.whole or self.finished):
            self._next_round()
        self.unseen = sum(stop - start for start, stop in self._remaining)
        self.claims = {task: (summary, RangeAccumulator()) for task, summary in self._claimed if self._remaining}
        self.unsigned = tuple(self._of_unknown_sign())
        self.checked_tasks = sorted({*self.claims, *self.unsigned})
        self._out = 0
        self.reading: Reading | None = None
        self._start_pass()

    def _claims_of(self, method: Method) -> Iterator[tuple[int, Summary]]:
        """Figures of importance files that stand in for statistics, by task."""
        for statistic, known in next(self.job.rounds(method), []):
            summary = self.job.summaries[statistic.subject.task] if known is not None else None
            if summary is not None:
                yield statistic.subject.task, summary

    def _of_unknown_sign(self) -> Iterator[int]:
        """Models whose importance must not be negative, and of which no statistic of the segment tells that it is."""
        data = self._method.data
        if data.signed or not data.elementwise:
            return
        told = {
            statistic.subject.task
            for statistic, known in next(self.job.rounds(self._method), [])
            if isinstance(statistic, RangeStatistic)
            and (statistic.scope, statistic.subject) == ("segment", Importance(statistic.subject.task, "lp"))
            and (known is None or statistic.subject.task in self.claims)
        }
        yield from (task for task in range(len(self.job.of_role("importance"))) if task not in told)

    def _what_remains(self, done: Sequence[tuple[int, int, tuple[int, ...]]]) -> list[Range]:
        """Ranges still to be written; all, where the segment is held whole, or where files make claims about it."""
        remaining, kept = subtract((0, self.job.size), done)
        if remaining and (self.whole or self._claimed):
            return [(0, self.job.size)]
        for counts in kept:
            self.counts += np.asarray(counts, np.int64)
        return remaining

    def _next_round(self) -> None:
        """Declare statistics until some have to be taken, or none are left."""
        job = self.job
        while job.settings is not None and not self.pending:
            declared = self._method.statistics(job.settings, len(self.models), job.place, self.results)
            if not declared:
                return
            earlier, self._brackets = self._brackets, []  # which hold keys
            brackets = self.flows and self._finite and bracketed(declared, self.job.size, self._room)
            for statistic in declared:
                known = known_of(statistic, job.summaries)
                self.statistics.append(statistic)
                self.results.append(known)
                if known is None:
                    self._open(len(self.results) - 1, statistic, earlier, brackets=brackets)
            self._seek_while_merging()

    def _seek_while_merging(self) -> None:
        """Leave what is pending to the pass that merges, if these are cuts that it can find on its way."""
        job, results = self.job, list(self.results)
        assert job.settings is not None
        step = tile_units(job, job.distinct, job.out_unit, self._flow_bytes)
        for index, (statistic, accumulator) in self.pending.items():
            sought = accumulator.sought if isinstance(accumulator, CutAccumulator) else None
            if sought is None or not within_one(tiles(self._remaining, step), *sought[:2]):
                return
            if not (isinstance(statistic, TieCut) and isinstance(statistic.subject, Field)):
                return
            formula, models = statistic.subject.formula, statistic.subject.models
            first, last, count = job.start + sought[0], job.start + sought[1], sought[2]
            results[index] = SoughtCut(formula, models, statistic.value, first=first, last=last, count=count)
        if not self._method.statistics(job.settings, len(self.models), job.place, results):
            self.results = results
            self.pending.clear()

    def _open(
        self,
        index: int,
        statistic: Statistic,
        earlier: Sequence[tuple[Statistic, BracketAccumulator]],
        *,
        brackets: bool,
    ) -> None:
        """Have a statistic taken, unless one of the last round tells."""
        size = self.job.size
        if brackets and isinstance(statistic, OrderStatistic):
            self._brackets.append((statistic, BracketAccumulator(statistic.k, size, in_parts=True)))
            self.pending[index] = self._brackets[-1]
            return
        accumulator = statistic.accumulator(size, size)
        if isinstance(accumulator, CutAccumulator):
            for other, bracket in earlier:
                if other.subject == statistic.subject and bracket.result == accumulator.value:
                    if bracket.seed(accumulator):
                        self.results[index] = accumulator.result
                        return
                    break
        self.pending[index] = (statistic, accumulator)

    def _start_pass(self) -> None:
        """Choose operands and tiles: what the statistics want to see, else what remains to be written."""
        job = self.job
        self.operands: Sequence[Operand]
        if self.pending:
            self._shown, stride = shown(self.pending)
            pending = list(self._shown.values())
            self.operands = job.reduced_by(statistic for statistic, _ in pending)
            self.reading = Reading(job, self.operands, pending, stride=stride)
            if stride is None:
                held = any(accumulator.in_memory for _, accumulator in pending)
                step = tile_units(job, self.operands, 0, self._tile_bytes if held else self._flow_bytes)
                self._tiles = tiles(wanted_by((accumulator for _, accumulator in pending), job.size), step)
            else:
                self._tiles = iter([(0, job.size)])
        else:
            self.reading, self._shown, self._brackets = None, {}, []  # which hold keys, and this is kept to the end
            self.operands = job.distinct
            step = job.size if self.whole else tile_units(job, self.operands, job.out_unit, self._flow_bytes)
            self._tiles = tiles(self._remaining, step)
        self._next = next(self._tiles, None)

    def take(self) -> Range | None:
        """The next tile of the pass."""
        tile = self._next
        if tile is not None:
            self._next = next(self._tiles, None)
            self._out += 1
        return tile

    def perform(self, task: Range, arena: Arena) -> int:
        """Do a tile; the pass changes only when none is out."""
        if self.reading is not None:
            return self._reduce(self.reading, *task, arena)
        return self._finish(self, *task, arena)

    def settle(self, task: Range) -> bool:
        """Go on to the next pass when the last tile of one is back."""
        self._out -= 1
        if self._next is not None or self._out:
            return False
        if not self.pending:
            self.finished = True
            return True
        for i, (_, accumulator) in self._shown.items():
            if accumulator.end_of_pass():
                self.results[i] = accumulator.result
                del self.pending[i]
        if not self.pending:
            self._next_round()
        self._start_pass()
        return False


def tile_units(job: Job, operands: Iterable[Operand], out_unit: int, tile_bytes: int) -> int:
    """Units of a tile of so many bytes: a multiple of the job's step, and at least that."""
    pieces = [*map(job.unit, operands), *([out_unit] if out_unit else []), *job.mask_units]
    limit = tile_bytes - PAGE * len(pieces)
    return max(limit // sum(pieces) // job.step, 1) * job.step


def wanted_by(accumulators: Iterable[Accumulator], size: int) -> list[Range]:
    """What a pass has to show: all of a segment, unless every accumulator wants less."""
    wanted = [accumulator.wanted for accumulator in accumulators]
    ranges = [each for each in wanted if each is not None]
    return [(0, size)] if len(ranges) < len(wanted) else sorted(set(ranges))


def tiles(ranges: Iterable[Range], step: int) -> Iterator[Range]:
    """Cut ranges into pieces of at most ``step``."""
    for start, stop in ranges:
        for first in range(start, stop, step):
            yield first, min(first + step, stop)


def within_one(pieces: Iterable[Range], start: int, stop: int) -> bool:
    """Whether what the pieces have of a range lies in a single one, as a whole."""
    shared = [piece for piece in pieces if piece[0] < stop and start < piece[1]]
    return not shared or (len(shared) == 1 and shared[0][0] <= start and stop <= shared[0][1])


def subtract(
    whole: Range, done: Iterable[tuple[int, int, tuple[int, ...]]]
) -> tuple[list[Range], list[tuple[int, ...]]]:
    """What is left of a range, and the counts of the parts taken away; a part that overlaps another is ignored."""
    position, end = whole
    remaining, kept = [], []
    for start, stop, counts in sorted(done):
        if start < position or stop > end:
            continue
        if start > position:
            remaining.append((position, start))
        kept.append(counts)
        position = stop
    if position < end:
        remaining.append((position, end))
    return remaining, kept


class Batch:
    """Jobs that lie one after the other in their files, done by one worker: its digests need not be pieced together.

    Args:
        runs: without statistics of their own.
    """

    def __init__(self, runs: Sequence[JobRun]) -> None:
        self._runs = runs
        self._taken = False

    def take(self) -> Sequence[JobRun] | None:
        """All of them, once."""
        taken, self._taken = self._taken, True
        return None if taken else self._runs

    def perform(self, task: Sequence[JobRun], arena: Arena) -> int:
        """One after the other."""
        count = 0
        for run in task:
            while (tile := run.take()) is not None:
                arena.reset()
                count += run.perform(tile, arena)
                run.settle(tile)
        return count

    def settle(self, task: Sequence[JobRun]) -> bool:
        """There is but one task."""
        return True


def batches(runs: Iterable[JobRun], most_bytes: int) -> Iterator[JobRun | Batch]:
    """Runs as they come, of which small ones that flow through are put together up to so many bytes."""
    waiting: list[JobRun] = []
    held = 0
    for run in runs:
        size = run.job.bytes_read
        small = run.flows and not (run.whole or run.pending) and size < most_bytes
        if waiting and (not small or held + size > most_bytes):
            yield Batch(waiting)
            waiting, held = [], 0
        if small:
            waiting.append(run)
            held += size
        else:
            yield run
    if waiting:
        yield Batch(waiting)


class Checks:
    """Independent tasks without order, as an activity.

    Args:
        tasks: at least one.
        perform: does one, and returns the bytes it read.
    """

    def __init__(self, tasks: Sequence[Any], perform: Callable[[Any], int]) -> None:
        self._tasks = iter(tasks)
        self._left = len(tasks)
        self._perform = perform

    def take(self) -> Any | None:
        """The next one."""
        return next(self._tasks, None)

    def perform(self, task: Any, arena: Arena) -> int:
        """Do it."""
        return self._perform(task)

    def settle(self, task: Any) -> bool:
        """Whether that was the last."""
        self._left -= 1
        return self._left == 0
