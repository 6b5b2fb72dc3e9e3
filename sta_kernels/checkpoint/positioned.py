"""Positioned reads and writes that are whole or an error; any number of threads may share a descriptor."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from sta_kernels.errors import RunError

_seek_lock = threading.Lock()


def byte_view(buffer: Any) -> memoryview:
    """One-dimensional view of the bytes of a C-contiguous buffer (bytes, memoryview, array)."""
    view = memoryview(buffer)
    if view.nbytes == 0:
        return memoryview(b"")  # a shape with a zero in it cannot be cast
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def read_failed(file: Path, offset: int, reason: str) -> RunError:
    """A device that gave no bytes."""
    return RunError(f"{file}: read at byte {offset} failed: {reason}")


def ended_early(file: Path, offset: int, missing: int) -> RunError:
    """A file that was longer once."""
    return RunError(f"{file}: ends at byte {offset}, {missing} bytes short; was it truncated meanwhile?")


def write_failed(file: Path, offset: int, reason: str) -> RunError:
    """A disk that took no bytes."""
    return RunError(f"{file}: write at byte {offset} failed: {reason}")


def read_exact(fd: int, view: memoryview, offset: int, file: Path) -> None:
    """Fill ``view`` from ``offset`` on.

    Raises:
        RunError: the device failed, or the file ends early; names file and offset.
    """
    done = 0
    while done < len(view):
        try:
            count = _pread(fd, view[done:], offset + done)
        except OSError as error:
            raise read_failed(file, offset + done, error.strerror or str(error)) from error
        if count == 0:
            raise ended_early(file, offset + done, len(view) - done)
        done += count


def write_all(fd: int, view: memoryview, offset: int, file: Path) -> None:
    """Write all of ``view`` at ``offset``.

    Raises:
        RunError: the disk is full or failed; names file and offset.
    """
    done = 0
    while done < len(view):
        try:
            done += _pwrite(fd, view[done:], offset + done)
        except OSError as error:
            raise write_failed(file, offset + done, error.strerror or str(error)) from error


def _seek_read(fd: int, view: memoryview, offset: int) -> int:
    """Read where the system has no positioned reads."""
    with _seek_lock:
        os.lseek(fd, offset, os.SEEK_SET)
        data = os.read(fd, len(view))
    view[: len(data)] = data
    return len(data)


def _seek_write(fd: int, view: memoryview, offset: int) -> int:
    """Write where the system has no positioned writes."""
    with _seek_lock:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, view)


def _vector_read(fd: int, view: memoryview, offset: int) -> int:
    return os.preadv(fd, [view], offset)


_pread = _vector_read if hasattr(os, "preadv") else _seek_read
_pwrite = os.pwrite if hasattr(os, "pwrite") else _seek_write
