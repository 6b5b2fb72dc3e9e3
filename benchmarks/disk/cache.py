"""Files that are on the disk, and not in the page cache."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np

ALLOWED = 0.01
"""Share of a file that may stay: the kernel keeps a page that is being looked at."""


def drop(path: Path) -> None:
    """Drop a file that has been synced from the page cache.

    Raises:
        AssertionError: more than :data:`ALLOWED` of it is still there.
    """
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    share = cached(path)
    assert share <= ALLOWED, f"{share:.1%} of {path} cannot be dropped"


def cached(path: Path) -> float:
    """Share of a file's pages that are in the page cache; unlike a read that does not wait, this brings none there."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        contents = np.frombuffer(mapped, np.uint8)
        seen = np.zeros(-(-contents.size // mmap.PAGESIZE), np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        result = libc.mincore(*map(ctypes.c_void_p, (contents.ctypes.data, contents.size, seen.ctypes.data)))
        del contents  # or the mapping could not be closed
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    return float((seen & 1).mean())
