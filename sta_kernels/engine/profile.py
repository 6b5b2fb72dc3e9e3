"""Where the time of a merge goes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

STAGES = ("start-up", "read", "digest", "statistics", "merge", "write", "wait", "sync", "publish")
"""In the order in which they are told: from the start of the process to the plan; what workers do, and when they have
nothing to do; writing what the system has kept back; files of their own, and final names."""
BY_WORKERS = ("read", "digest", "statistics", "merge", "write", "wait")


class Profile:
    """Seconds by stage; thread-safe.

    Attributes:
        threads: workers, among whom the time of :data:`BY_WORKERS` was divided.
        seconds: by stage; of workers, the sum over all of them.
    """

    def __init__(self) -> None:
        self.threads = 1
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    def charge(self, stage: str, seconds: float) -> None:
        """Add to a stage."""
        with self._lock:
            self.seconds[stage] += seconds

    @contextlib.contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Charge what happens within."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.charge(stage, time.perf_counter() - begin)

    def wall(self, stage: str) -> float:
        """A stage's share of the time that passed: of workers, the mean over them."""
        return self.seconds[stage] / (self.threads if stage in BY_WORKERS else 1)
