"""Merges that one process runs at the same time keep its memory limit together: one that does not fit yet, waits."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class _Admitted:
    """A merge that runs.

    Attributes:
        thread: that called for it.
        bytes: that it may hold.
        limit: that the process is to keep while it runs.
    """

    thread: int
    bytes: int
    limit: int


class Admission:
    """Which merges run, and what they may hold together."""

    def __init__(self) -> None:
        self.forget()

    def baseline(self, held: int) -> int:
        """What a process holds besides the merges that it runs.

        Args:
            held: what it holds with them, now. They may not have taken all they may, so what it held before the first
                of them is the least.
        """
        with self._changed:
            if not self._running:
                self._baseline = held
            return max(self._baseline, held - sum(merge.bytes for merge in self._running))

    @contextlib.contextmanager
    def admitted(self, baseline: int, needed: int, limit: int) -> Iterator[None]:
        """Wait until a merge fits beside those that run, and count it among them.

        A merge that is called for by the thread of one that runs, from its progress callback, waits for none: that
        other one could not go on.

        Args:
            baseline: bytes that the process holds besides merges.
            needed: bytes that this merge may hold.
            limit: that the process is to keep.
        """
        own = _Admitted(threading.get_ident(), needed, limit)
        with self._changed:
            while not self._fits(own, baseline):
                self._changed.wait()
            self._running.append(own)
        try:
            yield
        finally:
            with self._changed:
                self._running.remove(own)
                self._changed.notify_all()

    def _fits(self, own: _Admitted, baseline: int) -> bool:
        if not self._running or any(merge.thread == own.thread for merge in self._running):
            return True
        total = baseline + own.bytes + sum(merge.bytes for merge in self._running)
        return total <= min(own.limit, *(merge.limit for merge in self._running))

    def forget(self) -> None:
        """Start over, as a child does, which runs none of its parent's merges."""
        self._changed = threading.Condition()
        self._running: list[_Admitted] = []
        self._baseline = 0


ADMISSION = Admission()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ADMISSION.forget)
