"""Statistics over the tensors of a layer or of a whole model, taken before any of them is merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from sta_kernels.engine.jobs import Job, Plan
from sta_kernels.engine.memory import Arena, Budget
from sta_kernels.engine.runs import Range, Reading, Reduce, tile_units, tiles, wanted_by
from sta_kernels.methods.accumulators import Accumulator
from sta_kernels.methods.base import Method
from sta_kernels.methods.groups import Group, Member, SharedRounds, differing, group, shared_round
from sta_kernels.methods.selection import Segment
from sta_kernels.methods.statistics import Statistic


class Check(Protocol):
    """Of results of statistics."""

    def may_stand(self, result: Any) -> bool:
        """Whether a result is finite, or need not be."""

    def check_result(self, job: Job, statistic: Statistic, result: Any) -> None:
        """Refuse it."""


Task = tuple[Reading, Range]


class GroupRun:
    """The rounds of one group, as an activity of the scheduler: pass by pass over all of its segments.

    Args:
        shared: the group, its members by their job's index in the plan.
        jobs: of the plan.
        method: of the plan.
        budget: of the merge.
        reduce: takes one tile into accumulators; returns the bytes it read.
        check: of the statistics' results.
        flows: whether a job's tiles need not fit a worker's memory.

    Attributes:
        results: of all rounds, once it has ended.
    """

    def __init__(
        self,
        shared: Group[int],
        jobs: Sequence[Job],
        method: Method,
        budget: Budget,
        reduce: Reduce,
        check: Check,
        flows: Callable[[Job], bool],
    ) -> None:
        self.members = tuple(shared.offsets)
        self._shared = shared
        self._jobs = [jobs[index] for index in self.members]
        members, n_models = _members(self._jobs), len(self._jobs[0].of_role("model"))
        room = budget.spare // budget.threads if all(map(flows, self._jobs)) else 0
        self._rounds = SharedRounds(method, members, n_models, shared, room=room)
        self.results = self._rounds.results
        self._reduce = reduce
        self._check = check
        self._suspect: tuple[Statistic, Any] | None = None
        self._held_bytes = min(budget.tile, budget.arena)
        self._tile_bytes = [budget.flow if flows(job) else self._held_bytes for job in self._jobs]
        self._out = 0
        self._start_pass()

    def _start_pass(self) -> None:
        self._tasks = self._all_tasks(tuple(self._rounds.shown.values()), self._rounds.stride)
        self._next = next(self._tasks, None)

    def _all_tasks(self, pending: Sequence[tuple[Statistic, Accumulator]], stride: int | None) -> Iterator[Task]:
        suspects = [] if self._suspect is None else [self._suspect[0]]
        if not (pending or suspects):
            return
        for index, job, tile_bytes in zip(self.members, self._jobs, self._tile_bytes, strict=True):
            operands = job.reduced_by((*(statistic for statistic, _ in pending), *suspects))
            suspect = suspects[0] if suspects else None
            held = suspect is not None or any(each.in_memory for _, each in pending)
            reading = Reading(job, operands, pending, self._shared.offsets[index], suspect, stride)
            if stride is not None:
                if job.size >= stride // 2:  # a run of a smaller one would count for more than it is
                    yield reading, (0, job.size)
                continue
            ranges = [(0, job.size)] if suspects else wanted_by((each for _, each in pending), job.size)
            for tile in tiles(ranges, tile_units(job, operands, 0, self._held_bytes if held else tile_bytes)):
                yield reading, tile

    def take(self) -> Task | None:
        """The next tile of the pass."""
        task = self._next
        if task is not None:
            self._next = next(self._tasks, None)
            self._out += 1
        return task

    def perform(self, task: Task, arena: Arena) -> int:
        """Take in a tile."""
        reading, (start, stop) = task
        return self._reduce(reading, start, stop, arena)

    def settle(self, task: Task) -> bool:
        """Go on to the next pass, or round, when the last tile of one is back."""
        self._out -= 1
        if self._next is not None or self._out:
            return False
        if self._suspect is not None:  # what was searched for is in no tensor by itself
            self._check.check_result(self._jobs[0], *self._suspect)
        settled = self._rounds.end_of_pass()
        self._suspect = next((each for each in settled if not self._check.may_stand(each[1])), None)
        if self._suspect is not None:
            self._rounds.give_up()
        self._start_pass()
        return self._next is None


def group_runs(
    plan: Plan, method: Method, reduce: Reduce, check: Check, flows: Callable[[Job], bool]
) -> Iterator[GroupRun]:
    """The groups whose statistics a plan needs, each made as its turn comes: accumulators take memory."""
    for shared in _groups(plan.jobs, method):
        yield GroupRun(shared, plan.jobs, method, plan.budget, reduce, check, flows)


def plan_groups(jobs: Sequence[Job], method: Method, threads: int) -> int:
    """Check what the statistics over blocks or the model will be, and say how many bytes their accumulators hold.

    Workers that have to wait for one group go on with the next, so that as many may be open as there are workers.

    Args:
        jobs: of the plan.
        method: of the plan.
        threads: most workers.

    Raises:
        InputError: parameters that must be the same for all tensors of a group differ.
    """
    held = []
    for shared in _groups(jobs, method):
        rounds = [[each.held(shared.extent) for each in round_] for round_ in _rounds(shared, jobs, method)]
        held.append(max(sum(round_) + max(round_) for round_ in rounds))  # a sum is folded in a copy
    return sum(sorted(held)[-threads:])


def _groups(jobs: Sequence[Job], method: Method) -> list[Group[int]]:
    """Segments that share their first round; none where every segment stands for itself."""
    merged = {i: job for i, job in enumerate(jobs) if job.action == "merge"}
    scopes = {i: scope_of(job, method) for i, job in merged.items()}
    segments = {
        i: Segment(job.name, job.tensor, None, job.start, job.stop, job.place.shape) for i, job in merged.items()
    }
    found = []
    for scope in sorted({*scopes.values()} - {"segment"}):
        for shared in group(scope, segments):
            sharing = [i for i in shared.offsets if scopes[i] == scope]
            others = [i for i in shared.offsets if scopes[i] != scope]
            if sharing and others:
                one, other = _members([jobs[sharing[0]], jobs[others[0]]])
                raise differing(method, scope, one, other, len(jobs[sharing[0]].of_role("model")))
            found += [shared] if sharing else []
    return found


def _rounds(shared: Group[int], jobs: Sequence[Job], method: Method) -> Iterator[tuple[Statistic, ...]]:
    """What a group will declare, round by round."""
    members = _members([jobs[i] for i in shared.offsets])
    n_models = len(jobs[next(iter(shared.offsets))].of_role("model"))
    earlier: list[Any] = []
    while declared := shared_round(method, members, n_models, earlier):
        yield declared
        earlier += [statistic.unknown for statistic in declared]


def _members(jobs: Sequence[Job]) -> list[Member]:
    return [(job.tensor, job.settings, job.place) for job in jobs if job.settings is not None]


def scope_of(job: Job, method: Method) -> str:
    """Scope of a job's first round; ``segment`` where it needs none."""
    first: list[tuple[Statistic, Any]] = next(job.rounds(method), [])
    return first[0][0].scope if first else "segment"
