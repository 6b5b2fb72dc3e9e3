"""Progress on a terminal: one bar per stage, in bytes, with the time left."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Any


class Progress:
    """The engine's progress callback; draws only where standard error is a terminal and nobody asked for quiet."""

    def __init__(self, quiet: bool = False) -> None:
        self._on = not quiet and sys.stderr.isatty()
        self._bar: Any = None
        self._stage: str | None = None
        self._lock = threading.Lock()

    def __call__(self, stage: str, done_bytes: int, total_bytes: int) -> None:
        """Take note that ``done_bytes`` of ``total_bytes`` of a stage are done; any thread may call."""
        if not self._on:
            return
        with self._lock:
            if stage != self._stage:
                self._close()
                self._open(stage, total_bytes)
            # Threads may report out of order; a bar never goes back.
            self._bar.update(max(0, done_bytes - self._bar.n))

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._close()

    def _open(self, stage: str, total_bytes: int) -> None:
        from tqdm import tqdm

        self._stage = stage
        self._bar = tqdm(
            total=total_bytes,
            desc=stage,
            unit="B",
            unit_scale=True,
            dynamic_ncols=True,
            file=sys.stderr,
            mininterval=0.2,
        )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
