"""Little memory for the page cache: the rest is held by a process that does nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOLD = """
import mmap, sys
open("/proc/self/oom_score_adj", "w").write("1000")  # where memory runs out, this is to end, and nothing else
held = mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
print(flush=True)
sys.stdin.read()
"""


def available() -> int:
    """Bytes that processes can have, what the page cache would give up included."""
    known = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(known["MemAvailable"].split()[0]) * 1024


@contextmanager
def leaving(n_bytes: int) -> Iterator[int]:
    """Hold all memory but so much: for processes and for what the page cache keeps of files; yields the holder's pid.

    Raises:
        RuntimeError: there is not so much to begin with, or the memory was taken away meanwhile.
    """
    held = available() - n_bytes
    if held <= 0:
        raise RuntimeError(f"{n_bytes} bytes of memory are to be left, and only {available()} are there")
    command = [sys.executable, "-c", _HOLD, str(held)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            ready = holder.stdout.readline()
            yield holder.pid
            if not ready or holder.poll() is not None:
                raise RuntimeError(f"{held} bytes could not be held all the time; leave more")
        finally:
            holder.kill()
