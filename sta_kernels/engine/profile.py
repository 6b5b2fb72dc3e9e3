"""Where the time of a merge goes."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

STAGES = ("start-up", "read", "digest", "statistics", "merge", "write", "between", "sync", "publish")
"""In the order in which they are told: from the start of the process to the plan; what workers do, and what lies
between, which is preparing tiles and waiting for one another; writing what the system has kept back; small files, and
final names."""
BY_WORKERS = ("read", "digest", "statistics", "merge", "write", "between")


def process_age() -> float:
    """Seconds since this process was started, to a hundredth; 0 where the system does not tell."""
    with contextlib.suppress(OSError, AttributeError, ValueError, IndexError):  # no /proc
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - started, 0.0)
    return 0.0


class Profile:
    """Seconds by stage; thread-safe.

    Args:
        began: :func:`time.perf_counter` of the start; None is now.

    Attributes:
        total: from the start to the end of the merge.
        threads: workers, among whom the time of :data:`BY_WORKERS` was divided.
        seconds: by stage; of workers, the sum over all of them.
    """

    def __init__(self, began: float | None = None) -> None:
        self._began = time.perf_counter() if began is None else began
        self.total = 0.0
        self.threads = 1
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    def planned(self) -> None:
        """All that was before now was start-up."""
        self.charge("start-up", time.perf_counter() - self._began)

    def ended(self) -> None:
        """The merge is done."""
        self.total = time.perf_counter() - self._began

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
