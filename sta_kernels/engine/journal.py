"""What an unfinished merge has written so far, one line of JSON per fact, appended as it becomes true.

The journal is not synced before files take their final names: what it claims is checked, by digest, before it is
believed. From then on it is what tells these files from somebody else's, so it must survive a power cut as they do.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sta_kernels.errors import RunError

JOURNAL_NAME = ".sta-kernels.journal"
# A link that waits under the journal's name would have another file cut to nothing; a pipe would never be opened.
_SAFELY = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_MAX_LINE = 64 << 20


@dataclass
class Records:
    """A journal as read back.

    Attributes:
        identity: of the plan that it belongs to.
        blocks: per shard, digests of finished blocks.
        tiles: per job, finished ranges and what the method counted in them: (start, stop, counts).
        differing: models that were seen to differ from the base.
        varying: models whose importance was seen to hold more than one value in a tensor.
        served: by which devices and kernels the runs were, in order.
        publishing: the files began to take their final names.
        length: bytes of the journal up to where it is whole.
    """

    identity: str
    blocks: dict[int, dict[int, bytes]] = field(default_factory=dict)
    tiles: dict[int, list[tuple[int, int, tuple[int, ...]]]] = field(default_factory=dict)
    differing: set[int] = field(default_factory=set)
    varying: set[int] = field(default_factory=set)
    served: list[dict[str, str]] = field(default_factory=list)
    publishing: bool = False
    length: int = 0

    def _take(self, record: dict[str, Any]) -> None:
        if "blocks" in record:
            shard, first, digests = record["blocks"]
            raw = bytes.fromhex(digests)
            known = self.blocks.setdefault(_index(shard), {})
            known.update((_index(first) + i // 16, raw[i : i + 16]) for i in range(0, len(raw), 16))
        elif "tile" in record:
            job, start, stop, counts = record["tile"]
            tile = (_index(start), _index(stop), tuple(map(_index, counts)))
            self.tiles.setdefault(_index(job), []).append(tile)
        elif "differs" in record:
            self.differing.add(_index(record["differs"]))
        elif "varies" in record:
            self.varying.add(_index(record["varies"]))
        elif "served" in record:
            self.served.append({str(key): str(value) for key, value in record["served"].items()})
        elif "publishing" in record:
            self.publishing = True


def read_journal(path: Path) -> Records | None:
    """Read as far as the lines are whole; None where there is no journal, or not even its first line."""
    try:
        fd = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        with os.fdopen(fd, "rb") as stream:
            return parse_journal(iter(lambda: stream.readline(_MAX_LINE), b""))
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror or error}") from error


def _open(path: Path, flags: int) -> int:
    """Open the journal, and nothing that stands under its name instead."""
    try:
        fd = os.open(path, flags | _SAFELY, 0o644)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"{path}: cannot be opened: {error.strerror or error}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise RunError(f"{path}: not a regular file; remove it")
    return fd


def _index(value: Any) -> int:
    """A number that counts something."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} counts nothing")
    return value


def parse_journal(lines: Iterable[bytes]) -> Records | None:
    """What the lines say, as far as they are whole and make sense; None where the first one does not."""
    records: Records | None = None
    for line in lines:
        if not line.endswith(b"\n"):
            break
        try:
            record = json.loads(line)
            if records is None:
                records = Records(str(record["identity"]))
            else:
                records._take(record)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            break
        records.length += len(line)
    return records


class Journal:
    """Appends facts; every method is thread-safe.

    Args:
        path: of the journal.
        identity: of the plan, written where the journal is new.
        keep: bytes of the journal that is there to go on from; 0 starts anew.
    """

    def __init__(self, path: Path, identity: str, *, keep: int = 0) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            self._fd = _open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.ftruncate(self._fd, keep)
        except OSError as error:
            raise RunError(f"{path}: cannot be opened: {error.strerror or error}") from error
        if not keep:
            self._append({"identity": identity})

    def blocks(self, shard: int, first: int, digests: bytes) -> None:
        """Blocks of a shard, from ``first`` on, are written and have these digests, of 16 bytes each."""
        self._append({"blocks": [shard, first, digests.hex()]})

    def tile(self, job: int, start: int, stop: int, counts: tuple[int, ...]) -> None:
        """A range of a job is written."""
        self._append({"tile": [job, start, stop, counts]})

    def differs(self, model: int) -> None:
        """A model is not the base."""
        self._append({"differs": model})

    def varies(self, model: int) -> None:
        """A model's importance ranks something."""
        self._append({"varies": model})

    def served(self, placement: Mapping[str, str]) -> None:
        """Where this run's kernels are."""
        self._append({"served": placement})

    def publishing(self) -> None:
        """All blocks are written and synced; final names follow.

        Raises:
            RunError: the device failed.
        """
        self._append({"publishing": True})
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise RunError(f"{self._path}: cannot be synced: {error.strerror or error}") from error

    def close(self, *, remove: bool) -> None:
        """Close, and remove where the merge is finished."""
        os.close(self._fd)
        if remove:
            self._path.unlink()

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            with self._lock:
                left = memoryview(line)
                while left:  # a write may come short; where the disk is full, the next one says so
                    left = left[os.write(self._fd, left) :]
        except OSError as error:
            raise RunError(f"{self._path}: {error.strerror or error}") from error
