"""Workers that take tasks, in order, from activities whose later tasks may depend on all of their earlier ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from sta_kernels.engine.memory import Arena


class Activity(Protocol):
    """A sequence of tasks. :meth:`take` and :meth:`settle` are called under a lock, :meth:`perform` is not."""

    def take(self) -> Any | None:
        """The next task, or None while there is none to be had before others are settled."""

    def perform(self, task: Any, arena: Arena) -> int:
        """Do it, in the worker's own memory, and return the bytes that were read."""

    def settle(self, task: Any) -> bool:
        """A task is done. True when all are, and none will follow."""


class Scheduler:
    """Hands out the first task that can be had, of the first activity that has one.

    So activities are worked on in order, and a worker that would have to wait for another one goes on with the next.

    Args:
        activities: in order; each has at least one task.
    """

    def __init__(self, activities: Iterable[Activity]) -> None:
        self._waiting = iter(activities)
        self._active: list[Activity] = []
        self._changed = threading.Condition()
        self.stopped = False
        self.error: BaseException | None = None
        self.done_bytes = 0

    def take(self) -> tuple[Activity, Any] | None:
        """A task; None when all are done, or after a stop."""
        with self._changed:
            while not self.stopped:
                for activity in self._active:
                    task = activity.take()
                    if task is not None:
                        return activity, task
                following = next(self._waiting, None)
                if following is not None:
                    self._active.append(following)
                elif self._active:
                    self._changed.wait()
                else:
                    return None
            return None

    def settle(self, activity: Activity, task: Any, count: int) -> None:
        """A task is done."""
        with self._changed:
            self.done_bytes += count
            if activity.settle(task):
                self._active.remove(activity)
            self._changed.notify_all()

    def stop(self, error: BaseException | None = None) -> None:
        """Hand out nothing more; the first error is kept."""
        with self._changed:
            self.stopped = True
            self.error = self.error or error
            self._changed.notify_all()


_TICK_SECONDS = 0.1


def run_activities(
    activities: Iterable[Activity],
    threads: int,
    make_arena: Callable[[], Arena],
    tick: Callable[[int], None] | None = None,
) -> None:
    """Run all activities to their end on so many threads.

    The calling thread only waits, so that signals reach it; whatever is raised in it, once or again, stops the workers
    before it goes on, and an error in a worker is raised here.

    Args:
        activities: in order.
        threads: workers.
        make_arena: gives each its memory; called on its thread.
        tick: called at the start, now and then, and at the end, with the bytes that were read so far.
    """
    scheduler = Scheduler(activities)

    def work(ended: threading.Event) -> None:
        try:
            if scheduler.stopped:
                return
            arena = make_arena()
            while (taken := scheduler.take()) is not None:
                activity, task = taken
                arena.reset()
                scheduler.settle(activity, task, activity.perform(task, arena))
        except BaseException as error:  # raised again in the calling thread
            scheduler.stop(error)
        finally:
            ended.set()

    if tick is not None:
        tick(0)
    ends = [threading.Event() for _ in range(threads)]
    workers = [
        threading.Thread(target=work, args=(ended,), name=f"sta-merge-{i}", daemon=True) for i, ended in enumerate(ends)
    ]
    try:
        for worker in workers:
            worker.start()
        for ended in ends:
            while not ended.wait(_TICK_SECONDS):
                if tick is not None:
                    tick(scheduler.done_bytes)
        if tick is not None and scheduler.error is None:
            tick(scheduler.done_bytes)
    finally:
        _end(scheduler, workers, ends)
    if scheduler.error is not None:
        raise scheduler.error


def _end(scheduler: Scheduler, workers: Sequence[threading.Thread], ends: Sequence[threading.Event]) -> None:
    """Wait for the workers whatever is raised meanwhile: `timeout` sends its signal twice, people send theirs thrice.

    A worker that is in native code when the interpreter exits takes the process down with it. Events are waited for
    since up to Python 3.12 a join that an exception interrupts takes a thread that still runs for one that has ended.
    """
    raised: BaseException | None = None
    while True:
        try:
            scheduler.stop()
            for worker, ended in zip(workers, ends, strict=True):
                if worker.ident is not None:
                    ended.wait()
                    worker.join()
            break
        except BaseException as error:
            raised = error
    if raised is not None:
        raise raised
