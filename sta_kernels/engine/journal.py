"""What an unfinished merge has written so far, one line of JSON per fact, appended as it becomes true.

The journal is not synced: what it claims is checked, by digest, before it is believed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sta_kernels.errors import RunError

JOURNAL_NAME = ".sta-kernels.journal"


@dataclass
class Records:
    """A journal as read back.

    Attributes:
        identity: of the plan that it belongs to.
        blocks: per shard, digests of finished blocks.
        tiles: per job, finished ranges and what the method counted in them: (start, stop, counts).
        differing: models that were seen to differ from the base.
        served: by which devices and kernels the runs were, in order.
        publishing: the files began to take their final names.
        length: bytes of the journal up to where it is whole.
    """

    identity: str
    blocks: dict[int, dict[int, bytes]] = field(default_factory=dict)
    tiles: dict[int, list[tuple[int, int, tuple[int, ...]]]] = field(default_factory=dict)
    differing: set[int] = field(default_factory=set)
    served: list[dict[str, str]] = field(default_factory=list)
    publishing: bool = False
    length: int = 0

    def _take(self, record: dict[str, Any]) -> None:
        if "blocks" in record:
            shard, first, digests = record["blocks"]
            raw = bytes.fromhex(digests)
            known = self.blocks.setdefault(shard, {})
            known.update((first + i // 16, raw[i : i + 16]) for i in range(0, len(raw), 16))
        elif "tile" in record:
            job, start, stop, counts = record["tile"]
            self.tiles.setdefault(job, []).append((start, stop, tuple(counts)))
        elif "differs" in record:
            self.differing.add(record["differs"])
        elif "served" in record:
            self.served.append(record["served"])
        elif "publishing" in record:
            self.publishing = True


def read_journal(path: Path) -> Records | None:
    """Read as far as the lines are whole; None where there is no journal, or not even its first line."""
    try:
        with path.open("rb") as stream:
            return _parse(stream)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror or error}") from error


def _parse(lines: Iterable[bytes]) -> Records | None:
    records: Records | None = None
    for line in lines:
        if not line.endswith(b"\n"):
            break
        try:
            record = json.loads(line)
            if records is None:
                records = Records(record["identity"])
            else:
                records._take(record)
        except (ValueError, KeyError, TypeError):
            break
        records.length += len(line)
    return records


class Journal:
    """Appends facts; every method is thread-safe, since each is one append of one line.

    Args:
        path: of the journal.
        identity: of the plan, written where the journal is new.
        keep: bytes of the journal that is there to go on from; 0 starts anew.
    """

    def __init__(self, path: Path, identity: str, *, keep: int = 0) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o644)
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

    def served(self, placement: Mapping[str, str]) -> None:
        """Where this run's kernels are."""
        self._append({"served": placement})

    def publishing(self) -> None:
        """All blocks are written; final names follow."""
        self._append({"publishing": True})

    def close(self, *, remove: bool) -> None:
        """Close, and remove where the merge is finished."""
        os.close(self._fd)
        if remove:
            self._path.unlink()

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            if os.write(self._fd, line) != len(line):
                raise RunError(f"{self._path}: the disk is full")
        except OSError as error:
            raise RunError(f"{self._path}: {error.strerror or error}") from error
