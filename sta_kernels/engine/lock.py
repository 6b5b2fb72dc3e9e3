"""One process at a time per output folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from sta_kernels.errors import InputError, RunError

LOCK_NAME = ".sta-kernels.lock"
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


def _try_lock(fd: int) -> bool:
    """Lock an open file without waiting; the lock ends with the descriptor, so a killed process leaves none behind."""
    try:
        import fcntl
    except ImportError:
        import msvcrt

        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        # flock rather than lockf: it belongs to the open file, so it also keeps out another thread of this process.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock.

    Raises:
        InputError: another merge holds it.
        RunError: the lock file cannot be made, or locked.
    """
    path = folder / LOCK_NAME
    while True:
        try:
            fd = os.open(path, _FLAGS | getattr(os, "O_NONBLOCK", 0), 0o644)
        except OSError as error:
            raise RunError(f"{path}: cannot be opened: {error.strerror or error}") from error
        try:
            try:
                free = _try_lock(fd)
            except OSError as error:  # a file system without locks
                raise RunError(f"{path}: cannot be locked: {error.strerror or error}") from error
            if not free:
                raise InputError(f"{folder}: another merge is writing there; wait for it, or choose another folder")
            # The holder before may have removed the file between our opening and our locking of it.
            if _same_file(fd, path):
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):
                        path.unlink()
                return
        finally:
            os.close(fd)


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
