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
from typing import Any, Protocol

import numpy as np

from sta_kernels.engine.admission import ADMISSION
from sta_kernels.errors import InputError

LEAST = 192_000_000
"""Smallest limit that is accepted, in bytes."""
PAGE = 4096
_RESERVE = 24 << 20
_ROUND = 10_000_000
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
class Sizes:
    """How the buffers of a merge are cut, for one kind of kernels.

    Attributes:
        tile: bytes of all operands and the output of one tile.
        arena: most bytes per worker; a segment whose operands fit is read once even where its statistics come first.
        least: bytes per worker without which a merge is refused.
        reserve: bytes in main memory that the kernels, or their compiler, hold per worker, besides its buffers.
        in_main_memory: times that a worker's buffers are in main memory.
        on_device: times that they are on the device.
        whole: most bytes of a segment that is read once, where that is less than what fits.
        flow: bytes of all operands and the output of one tile that passes through slice by slice; 0 where none does.
    """

    tile: int
    arena: int
    least: int
    reserve: int
    in_main_memory: int = 1
    on_device: int = 0
    whole: int | None = None
    flow: int = 0

    @property
    def staged(self) -> bool:
        """Whether kernels work on a copy of the buffers."""
        return self.in_main_memory + self.on_device > 1


SIZES = {
    # A tile stays in a core's share of the last cache levels.
    "native": Sizes(tile=4 << 20, arena=96 << 20, least=6 << 20, reserve=10 << 20, flow=64 << 20),
    "reference": Sizes(tile=4 << 20, arena=96 << 20, least=6 << 20, reserve=24 << 20),
    # Tens of megabytes: an operand's copy takes far longer than it costs to start it, and a tile longer than its calls.
    "cuda": Sizes(tile=32 << 20, arena=128 << 20, least=8 << 20, reserve=8 << 20, on_device=1),
    # Interpreted, 64 KiB take a second: so often is there progress, a record of it, and an end where one is asked for.
    "interpret": Sizes(
        tile=64 << 10, arena=128 << 20, least=8 << 20, reserve=24 << 20, in_main_memory=2, whole=128 << 10
    ),
}
"""By the kernels' name, or the device that Triton's work on."""


@dataclass(frozen=True)
class Budget:
    """What a merge may hold.

    Attributes:
        limit: anonymous bytes of the whole process.
        baseline: held before the first buffer, but for what other merges in this process hold.
        threads: workers.
        tile: bytes of a tile's operands and output, unless one needs more.
        arena: bytes of each worker's buffers.
        whole: most bytes of a segment that is read once even where its statistics come first.
        peak: bytes in main memory that the merge is expected to stay under.
        device: bytes of the workers' buffers on the device, if it has memory of its own.
        flow: bytes of the operands and output of a tile that passes through slice by slice; 0 where none does.
    """

    limit: int
    baseline: int
    threads: int
    tile: int
    arena: int
    whole: int
    peak: int
    device: int = 0
    flow: int = 0

    @property
    def spare(self) -> int:
        """Bytes below the limit that nothing is meant for."""
        return max(self.limit - self.peak, 0)

    def admitted(self) -> contextlib.AbstractContextManager[None]:
        """A context in which this much may be held; entering it waits for other merges of this process to end."""
        return ADMISSION.admitted(self.baseline, self.peak - self.baseline, self.limit)

    @classmethod
    def plan(
        cls,
        max_memory: int | str | None,
        threads: int,
        kind: str,
        segment_bytes: Iterable[int],
        device_free: int | None = None,
        whole_bytes: int = 0,
        workspace: int = 0,
        shared: int = 0,
    ) -> Budget:
        """Divide what is left of the limit among the workers.

        Args:
            max_memory: limit; None for :func:`default_limit`, which, unlike a limit that was asked for, gives way where
                the process already holds more.
            threads: workers wanted; fewer where their buffers would not fit.
            kind: key of :data:`SIZES`.
            segment_bytes: operands and output of every segment that would gain from being read whole.
            device_free: bytes that are free on a device with memory of its own; half of them may be taken.
            whole_bytes: operands, masks and output of the largest segment, or part of one, that must not be divided.
            workspace: bytes that such a segment's masks and rule take besides.
            shared: bytes that statistics over several segments hold, whatever the number of workers.

        Raises:
            InputError: less than the least limit, or than this process holds already; a device that is full.
        """
        sizes = SIZES[kind]
        baseline = ADMISSION.baseline(anonymous_bytes())
        reserve = sizes.reserve + workspace
        least = reserve + sizes.in_main_memory * max(sizes.least, page_align(whole_bytes))
        if max_memory is None:
            limit = max(default_limit(), baseline + _RESERVE + shared + least)
        else:
            limit = parse_size(max_memory, "max_memory")
        free = limit - baseline - _RESERVE - shared
        workers = min(threads, free // least)
        if limit < LEAST and workers >= 1:
            raise InputError(f"max_memory: {limit:,} bytes is too little: at least {LEAST // 10**6}MB")
        if limit < LEAST or workers < 1:
            # What a process holds differs a little from run to run: what is asked for must do in the next one too.
            enough = max(LEAST, (-(-(limit - free + least) // _ROUND) + 1) * _ROUND)
            raise InputError(
                f"max_memory: {limit:,} bytes is too little; this process holds {baseline:,} already: "
                f"give it at least {-(-enough // 10**6)}MB"
            )
        most = max(sizes.arena, page_align(whole_bytes))
        if device_free is not None:
            workers = min(workers, device_free // 2 // max(sizes.least, page_align(whole_bytes)))
            if workers < 1:
                raise InputError(f"device: only {device_free:,} bytes are free on it; {2 * sizes.least:,} are needed")
            most = min(most, device_free // 2 // workers)
        most = min(most, (free // workers - reserve) // sizes.in_main_memory)
        wanted = max(max(segment_bytes, default=0), sizes.tile + (1 << 20), sizes.least, page_align(whole_bytes))
        arena = _power_of_two(wanted, most) if sizes.staged else min(wanted, most)
        arena -= arena % PAGE
        held = baseline + _RESERVE + shared + workers * (reserve + sizes.in_main_memory * arena)
        whole = arena if sizes.whole is None else min(arena, sizes.whole)
        device = workers * sizes.on_device * arena
        return cls(limit, baseline, workers, sizes.tile, arena, whole, held, device, sizes.flow)


def _power_of_two(wanted: int, most: int) -> int:
    """At least what is wanted, unless that is too much: pinned memory comes in powers of two."""
    return min(1 << (wanted - 1).bit_length(), 1 << (most.bit_length() - 1))


class Workspace(Protocol):
    """Memory of one worker that kernels see through a copy of it."""

    memory: Any
    """Its bytes, writable, by the buffer protocol."""

    def reset(self) -> None:
        """Nothing that was copied is valid any more."""


class Arena:
    """One worker's memory, handed out by whole pages, and reused from task to task.

    Args:
        size: bytes of anonymous memory.
        workspace: whose memory it is instead.
    """

    def __init__(self, size: int, workspace: Workspace | None = None) -> None:
        self._workspace = workspace
        self._memory = _private_pages(size) if workspace is None else workspace.memory
        self._view = memoryview(self._memory)
        self._address = np.frombuffer(self._memory, np.uint8).ctypes.data
        self._used = 0

    def reset(self) -> None:
        """Take everything back."""
        self._used = 0
        if self._workspace is not None:
            self._workspace.reset()

    def take(self, size: int) -> tuple[memoryview, int]:
        """A piece of ``size`` bytes: its bytes, and its address, which is as aligned as the memory, up to a page."""
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
