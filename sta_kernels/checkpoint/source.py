"""One weight file, whatever its format: its tensors under the names it stores, and their bytes."""

from __future__ import annotations

import os
import stat
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sta_kernels.checkpoint.entry import TensorEntry
from sta_kernels.checkpoint.header import LENGTH_BYTES, header_length, parse_header
from sta_kernels.checkpoint.positioned import read_exact
from sta_kernels.errors import InputError, RunError


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells that a file is still the one that was opened."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, file: Path) -> Identity:
        """Of a regular file.

        Raises:
            InputError: there is none, or it is a folder, a pipe or a device.
            RunError: it cannot be looked at.
        """
        try:
            status = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{file}: no such file") from None
        except OSError as error:
            raise RunError(f"{file}: {error.strerror or error}") from error
        return cls._checked(status, file)

    @classmethod
    def of_descriptor(cls, fd: int, file: Path) -> Identity:
        """Of an open file."""
        return cls._checked(os.fstat(fd), file)

    @classmethod
    def _checked(cls, status: os.stat_result, file: Path) -> Identity:
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{file}: not a regular file")
        return cls(status.st_size, status.st_mtime_ns)


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


def unchanged(now: Identity, then: Identity, file: Path) -> None:
    """Raise RunError where a file is no longer the one that was opened."""
    if now != then:
        raise RunError(f"{file}: changed while it was in use ({then.size} bytes before, {now.size} now); start again")


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
            unchanged(Identity.of_descriptor(fd, self.file), self.identity, self.file)
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
        fd = self._descriptor()
        read_exact(fd, view, entry.offset + start, self.file)
        unchanged(Identity.of_descriptor(fd, self.file), self.identity, self.file)

    def _descriptor(self) -> int:
        """The descriptor, opened by the first reader: a plan opens none, a merge one per file."""
        with self._lock:
            if self._fd is None:
                self._fd = open_descriptor(self.file)
                unchanged(Identity.of_descriptor(self._fd, self.file), self.identity, self.file)
            return self._fd

    def close(self) -> None:
        """Close the descriptor; a later read opens it again."""
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
