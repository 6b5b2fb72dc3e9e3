"""Files that appear whole or not at all: written under a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

from sta_kernels.checkpoint.positioned import byte_view, read_exact, write_all
from sta_kernels.errors import RunError

_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_NO_PREALLOCATION = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def temporary_name(path: Path) -> Path:
    """Where a file is built before it gets its name; the same at every start, so that a killed run is found again."""
    return path.with_name(f".{path.name}.partial")


class ShardWriter:
    """A file of known size, written in any order by any number of threads; a context manager that only closes it.

    Args:
        path: final name; nothing appears there before :meth:`finish`.
        size: bytes of the whole file, allocated at once.
        resume: continue a temporary file of this size that an earlier run left; otherwise start anew.

    Attributes:
        resumed: whether such a file was found; its bytes are then whatever was written of them.

    Raises:
        RunError: no room, or the system refuses.
    """

    def __init__(self, path: str | Path, size: int, *, resume: bool = False) -> None:
        self.path = Path(path)
        self.size = size
        self.temporary = temporary_name(self.path)
        self.resumed = False
        self._fd: int | None = self._open(resume)

    def _open(self, resume: bool) -> int:
        try:
            if resume:
                with contextlib.suppress(FileNotFoundError):
                    fd = os.open(self.temporary, _FLAGS)
                    if os.fstat(fd).st_size == self.size:
                        self.resumed = True
                        return fd
                    os.close(fd)
            fd = os.open(self.temporary, _FLAGS | os.O_CREAT | os.O_TRUNC, 0o666)
        except OSError as error:
            raise RunError(f"{self.temporary}: cannot be created: {error.strerror or error}") from error
        try:
            _allocate(fd, self.size, self.temporary)
        except BaseException:
            os.close(fd)
            self.temporary.unlink(missing_ok=True)
            raise
        return fd

    def write(self, offset: int, view: Any) -> None:
        """Write a C-contiguous buffer at ``offset``. Thread-safe.

        Raises:
            ValueError: outside the file.
            RunError: the disk is full or failed; names file and offset.
        """
        data = byte_view(view)
        self._check_range(offset, len(data))
        write_all(self.descriptor, data, offset, self.temporary)

    def read_into(self, offset: int, view: Any) -> None:
        """Read back what stands at ``offset``, for digests. Thread-safe.

        Raises:
            ValueError: outside the file.
            RunError: the device failed.
        """
        data = byte_view(view)
        self._check_range(offset, len(data))
        read_exact(self.descriptor, data, offset, self.temporary)

    def sync(self) -> None:
        """Make everything written so far survive a power cut.

        Raises:
            RunError: the device failed.
        """
        _sync(self.descriptor, self.temporary)

    def finish(self) -> None:
        """Sync, close, and give the file its name.

        Raises:
            RunError: the device failed; the temporary file stays.
        """
        self.sync()
        self.close()
        _rename(self.temporary, self.path)

    def close(self) -> None:
        """Close, leaving the temporary file for a later run."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def discard(self) -> None:
        """Close and remove the temporary file."""
        self.close()
        self.temporary.unlink(missing_ok=True)

    @property
    def descriptor(self) -> int:
        """The open file, for positioned reads and writes within its size; ValueError after it was closed."""
        if self._fd is None:
            raise ValueError(f"{self.path}: the writer is closed")
        return self._fd

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self.size:
            raise ValueError(f"{self.path}: bytes [{offset}, {offset + length}) of a file of {self.size}")

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def atomic_write(path: str | Path, content: bytes) -> None:
    """Write a small file so that its name only ever shows all of it.

    Raises:
        RunError: the disk is full or failed; an older file of that name is then untouched.
    """
    path = Path(path)
    writer = ShardWriter(path, len(content))
    try:
        writer.write(0, content)
        writer.finish()
    except BaseException:
        writer.discard()
        raise


def _allocate(fd: int, size: int, file: Path) -> None:
    """Reserve the blocks now, so that a full disk is found before any work is done.

    Where a file system cannot reserve, or has to write zeros for it, the free space is at least compared and the length
    set.
    """
    try:
        if size and hasattr(os, "posix_fallocate") and not _in_memory(fd):
            try:
                os.posix_fallocate(fd, 0, size)
                return
            except OSError as error:
                if error.errno not in _NO_PREALLOCATION:
                    raise
        if shutil.disk_usage(file.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(fd, size)
    except OSError as error:
        raise RunError(f"{file}: {size} bytes cannot be reserved: {error.strerror or error}") from error


def _in_memory(fd: int) -> bool:
    """Whether a file lies in a tmpfs, where to reserve is to write zeros: as slow as the copy that overwrites them."""
    device = os.fstat(fd).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError, ValueError, IndexError):  # no /proc
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields = line.split()
            if fields[2] == number:
                return fields[fields.index("-") + 1] in ("tmpfs", "ramfs")
    return False


def _sync(fd: int, file: Path) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        raise RunError(f"{file}: cannot be synced: {error.strerror or error}") from error


def _rename(temporary: Path, path: Path) -> None:
    """Rename, and sync the folder that holds the name."""
    try:
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"{path}: cannot be given its name: {error.strerror or error}") from error
    if os.name == "posix":  # other systems cannot open a folder
        try:
            fd = os.open(path.parent, os.O_RDONLY)
        except OSError as error:
            raise RunError(f"{path.parent}: cannot be synced: {error.strerror or error}") from error
        try:
            _sync(fd, path.parent)
        finally:
            os.close(fd)
