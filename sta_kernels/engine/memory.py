"""How much memory a merge may take, and the buffers it takes it in."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sta_kernels.errors import InputError

LEAST = 192_000_000
"""Smallest limit that is accepted, in bytes."""
PAGE = 4096
TILE_SET = 4 << 20
"""Bytes of all operands and the output of one tile: what stays in a core's share of the last cache levels."""
LARGEST_ARENA = 96 << 20
"""Most bytes per worker; a segment whose operands fit is read once even where its statistics come first."""
LEAST_ARENA = 6 << 20
_RESERVE = 24 << 20
_RESERVE_PER_WORKER = {"native": 1 << 20, "reference": 24 << 20}
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", re.IGNORECASE)


def parse_size(size: int | str, what: str) -> int:
    """Bytes from a number or from text such as ``256MB`` (10⁶) or ``1.5GiB`` (2³⁰).

    Args:
        size: bytes, or text.
        what: the option's name, for the error.

    Raises:
        InputError: neither a number of bytes nor a size, or not positive.
    """
    match = _SIZE.fullmatch(str(size))
    if match is None:
        raise InputError(f"{what}: {size!r} is not a size; write for example 256MB, 5GB or 1.5GiB")
    value = int(float(match[1]) * _UNITS[(match[2] or "").lower()]) if match[2] else int(float(match[1]))
    if value <= 0:
        raise InputError(f"{what}: must be positive, got {size!r}")
    return value


def anonymous_bytes() -> int:
    """Anonymous memory that this process holds now; where the system does not tell, its largest resident size."""
    with contextlib.suppress(OSError):  # no /proc
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return _largest_resident_bytes()


def _largest_resident_bytes() -> int:
    try:
        import resource
    except ImportError:  # Windows: assume an interpreter with numpy
        return 64 << 20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def default_limit() -> int:
    """2 GiB, or a quarter of the memory that this process may use, if that is less."""
    total = _physical_bytes()
    with contextlib.suppress(OSError, ValueError):  # no cgroup, or "max"
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return max(min(2 << 30, total // 4), LEAST)


def _physical_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 << 30


@dataclass(frozen=True)
class Budget:
    """What a merge may hold.

    Attributes:
        limit: anonymous bytes of the whole process.
        baseline: held before the first buffer.
        threads: workers.
        arena: bytes of each worker's buffers.
        peak: bytes that the merge is expected to stay under.
    """

    limit: int
    baseline: int
    threads: int
    arena: int
    peak: int

    @classmethod
    def plan(cls, max_memory: int | str | None, threads: int, backend: str, segment_bytes: Iterable[int]) -> Budget:
        """Divide what is left of the limit among the workers.

        Args:
            max_memory: limit; None for :func:`default_limit`, which, unlike a limit that was asked for, gives way where
                the process already holds more.
            threads: workers wanted; fewer where their buffers would not fit.
            backend: name of the kernels, some of which hold temporaries.
            segment_bytes: operands and output of every segment that would gain from being read whole.

        Raises:
            InputError: less than the least limit, or than this process holds already.
        """
        baseline = anonymous_bytes()
        overhead = _RESERVE_PER_WORKER.get(backend, 1 << 20)
        if max_memory is None:
            limit = max(default_limit(), baseline + _RESERVE + overhead + LEAST_ARENA)
        else:
            limit = parse_size(max_memory, "max_memory")
            if limit < LEAST:
                raise InputError(f"max_memory: {limit:,} bytes is too little; at least {LEAST:,} are needed")
        free = limit - baseline - _RESERVE
        workers = min(threads, free // (overhead + LEAST_ARENA))
        if workers < 1:
            raise InputError(
                f"max_memory: this process holds {baseline:,} bytes already; "
                f"give it at least {baseline + _RESERVE + overhead + LEAST_ARENA:,}"
            )
        largest = max(segment_bytes, default=0)
        arena = min(free // workers - overhead, LARGEST_ARENA, max(largest, TILE_SET + (1 << 20), LEAST_ARENA))
        arena -= arena % PAGE
        return cls(limit, baseline, workers, arena, baseline + _RESERVE + workers * (overhead + arena))


class Arena:
    """One worker's memory: anonymous, page-aligned, handed out piece by piece and reused from task to task."""

    def __init__(self, size: int) -> None:
        self._memory = _private_pages(size)
        self._view = memoryview(self._memory)
        self._address = np.frombuffer(self._memory, np.uint8).ctypes.data
        self._used = 0

    def reset(self) -> None:
        """Take everything back."""
        self._used = 0

    def take(self, size: int) -> tuple[memoryview, int]:
        """A page-aligned piece of ``size`` bytes: its bytes, and its address."""
        start = self._used
        self._used = start + page_align(size)
        if self._used > len(self._view):
            raise MemoryError(f"a task asked for {self._used:,} bytes of a worker's {len(self._view):,}")
        return self._view[start : start + size], self._address + start


def _private_pages(size: int) -> mmap.mmap:
    """Zeroed memory of this process alone; what mmap gives unasked is shared, and shared with forked children."""
    if hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)


def page_align(size: int) -> int:
    """Bytes rounded up to whole pages."""
    return -(-size // PAGE) * PAGE
