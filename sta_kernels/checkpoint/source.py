"""One weight file, whatever its format: its tensors under the names it stores, and their bytes."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sta_kernels.checkpoint.entry import TensorEntry
from sta_kernels.checkpoint.header import LENGTH_BYTES, header_length, parse_header
from sta_kernels.checkpoint.positioned import read_exact
from sta_kernels.errors import InputError, RunError

MAX_KEPT = 512
"""Most files that stay open between reads; further ones are opened for each read (systems allow 1,024 by default)."""
_kept = threading.Semaphore(MAX_KEPT)


def _start_over() -> None:
    """In a forked child: a thread of its parent may have held the semaphore's lock, and does not live here."""
    global _kept
    _kept = threading.Semaphore(MAX_KEPT)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_over)


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells that a file is still the one that was opened."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, file: Path, fd: int | None = None) -> Identity:
        """Of a regular file, by its name or by a descriptor.

        Raises:
            InputError: there is none, or it is a folder, a pipe or a device.
            RunError: it cannot be looked at.
        """
        try:
            status = os.stat(file if fd is None else fd)
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{file}: no such file") from None
        except OSError as error:
            raise RunError(f"{file}: {error.strerror or error}") from error
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{file}: not a regular file")
        return cls(status.st_size, status.st_mtime_ns)

    def check(self, file: Path, fd: int | None = None) -> None:
        """Raise RunError where a file in use is no longer the one that was opened."""
        try:
            now = Identity.of(file, fd)
        except InputError as error:
            raise RunError(f"{error}, and there was one when it was opened") from None
        if now != self:
            raise RunError(
                f"{file}: changed while it was in use ({self.size} bytes before, {now.size} now); start again"
            )


class Source(Protocol):
    """A weight file that was opened and whose description was checked."""

    file: Path
    identity: Identity
    entries: list[TensorEntry]
    """In file order, under the names that the file stores."""
    metadata: dict[str, str]
    aliases: dict[str, str]
    """Stored name to the first stored name of the same bytes."""
    left_out: list[str]
    """What the file holds beside tensors."""

    def read_into(self, entry: TensorEntry, start: int, view: memoryview) -> None:
        """Fill ``view`` (bytes) with the tensor's bytes from ``start`` on; thread-safe."""

    def close(self) -> None:
        """Give up descriptors and mappings."""


def open_descriptor(file: Path) -> int:
    """Open a regular file for reading; never blocks on a pipe that took its place.

    Raises:
        InputError: there is none.
        RunError: the system refuses.
    """
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        return os.open(file, flags)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{file}: no such file") from None
    except OSError as error:
        raise RunError(f"{file}: cannot be opened: {error.strerror or error}") from error


@dataclass
class SafetensorsSource:
    """A ``.safetensors`` file, read by position.

    Args:
        file: to open; its header is parsed and checked at once, its tensors are left alone.

    Raises:
        InputError: not a well-formed safetensors file.
        RunError: the device failed.
    """

    file: Path
    identity: Identity = field(init=False)
    entries: list[TensorEntry] = field(init=False)
    metadata: dict[str, str] = field(init=False)
    aliases: dict[str, str] = field(init=False, default_factory=dict)
    left_out: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._fd: int | None = None
        self.identity = Identity.of(self.file)
        fd = open_descriptor(self.file)
        try:
            self.identity.check(self.file, fd)
            size = self.identity.size
            prefix = bytearray(min(LENGTH_BYTES, size))
            read_exact(fd, memoryview(prefix), 0, self.file)
            header = bytearray(header_length(bytes(prefix), size, self.file))
            read_exact(fd, memoryview(header), LENGTH_BYTES, self.file)
        finally:
            os.close(fd)
        self.entries, self.metadata = parse_header(bytes(header), size, self.file)

    def read_into(self, entry: TensorEntry, start: int, view: memoryview) -> None:
        """Fill ``view`` from byte ``start`` of the tensor.

        Raises:
            RunError: read error, truncated file, or a file that changed since it was opened.
        """
        assert entry.offset is not None
        with self.descriptor() as fd:
            read_exact(fd, view, entry.offset + start, self.file)

    @contextlib.contextmanager
    def descriptor(self) -> Iterator[int]:
        """The open file, for positioned reads; when it is given back, it is held against what was opened once.

        Raises:
            RunError: the file changed, or cannot be opened again.
        """
        with self._lock:
            if self._fd is None and _kept.acquire(blocking=False):
                try:
                    self._fd = self._reopen()
                except BaseException:
                    _kept.release()
                    raise
        fd = self._fd if self._fd is not None else self._reopen()
        try:
            yield fd
            self.identity.check(self.file, fd)
        finally:
            if fd != self._fd:
                os.close(fd)

    def _reopen(self) -> int:
        """A descriptor of the same file: a plan holds none, a merge opens one at the first read."""
        try:
            return open_descriptor(self.file)
        except InputError as error:
            raise RunError(f"{error}, and there was one when it was opened") from None

    def close(self) -> None:
        """Close the descriptor; a later read opens it again."""
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
                _kept.release()
