"""The output folder: shards that grow under temporary names, and what stands beside them in the end."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sta_kernels.checkpoint import ShardWriter, atomic_write
from sta_kernels.checkpoint.digest import BLOCK, block_digest, combine, hash_file, regions
from sta_kernels.checkpoint.positioned import read_exact
from sta_kernels.checkpoint.source import open_descriptor
from sta_kernels.checkpoint.writer import temporary_name
from sta_kernels.engine.blocks import BlockDigests
from sta_kernels.engine.config_edit import Edits
from sta_kernels.engine.jobs import Job, Plan
from sta_kernels.engine.journal import JOURNAL_NAME, Journal, Records
from sta_kernels.engine.lock import LOCK_NAME
from sta_kernels.engine.memory import PAGE, Arena
from sta_kernels.engine.runs import Checks
from sta_kernels.engine.scheduler import run_activities

MANIFEST_NAME = "sta_kernels_manifest.json"
RECIPE_NAME = "recipe.yaml"
CARD_NAME = "README.md"
OWN_NAMES = frozenset((MANIFEST_NAME, RECIPE_NAME, CARD_NAME))
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
_PARTIAL_WEIGHTS = re.compile(rf"\.({_WEIGHTS.pattern})\.partial")
_CHUNK = 1 << 20
FileRecord = dict[str, Any]


class Shards:
    """Output files on their way; a context manager that closes them.

    Args:
        folder: the output folder.
        plan: of the merge.
        journal: told of every block that is complete.
        records: of an earlier run of the same plan, or None.
    """

    def __init__(self, folder: Path, plan: Plan, journal: Journal, records: Records | None) -> None:
        self._plan = plan
        self._journal = journal
        self._records = records or Records(plan.identity)
        self._writers: list[ShardWriter] = []
        self._digests: list[BlockDigests] = []
        self._proved: list[dict[int, bytes]] = []
        try:
            for shard in plan.layout.shards:
                final = folder / shard.file_name
                if self._records.publishing and final.exists() and not temporary_name(final).exists():
                    os.replace(
                        final, temporary_name(final)
                    )  # it had its name already: look at it again like the others
                self._writers.append(ShardWriter(final, shard.size, resume=records is not None))
        except BaseException:
            self.close()
            raise

    def prove(self, threads: int) -> int:
        """Read again every block that the journal calls finished; returns the bytes that can be kept."""
        claimed = [
            (i, index, digest)
            for i, writer in enumerate(self._writers)
            if writer.resumed
            for index, digest in self._records.blocks.get(i, {}).items()
            if index * BLOCK < writer.size
        ]
        self._proved = [{} for _ in self._writers]

        def check(claim: tuple[int, int, bytes]) -> int:
            i, index, digest = claim
            blocks = BlockDigests(self._writers[i].size, self._reader(i))
            blocks.complete(index)
            if blocks.digest(index) == digest:
                self._proved[i][index] = digest
            return blocks.length(index)

        if claimed:
            run_activities([Checks(claimed, check)], threads, partial(Arena, PAGE))
        for i, writer in enumerate(self._writers):
            self._digests.append(BlockDigests(writer.size, self._reader(i), self._on_blocks(i), self._proved[i]))
        return sum(
            digests.length(index)
            for digests, proved in zip(self._digests, self._proved, strict=True)
            for index in proved
        )

    def kept(self, index: int, job: Job) -> list[tuple[int, int, tuple[int, ...]]]:
        """Ranges of a job that the journal calls finished, and whose every block was proved."""
        proved = self._proved[job.shard]
        ranges = []
        for start, stop, counts in self._records.tiles.get(index, ()):
            first = (job.offset + start * job.out_unit) // BLOCK
            last = (job.offset + stop * job.out_unit - 1) // BLOCK
            if job.out_unit and all(block in proved for block in range(first, last + 1)):
                ranges.append((start, stop, counts))
        return ranges

    def write_headers(self) -> None:
        """The first bytes of every shard."""
        for i, shard in enumerate(self._plan.layout.shards):
            self.write(i, 0, memoryview(shard.header))
            self.digest(i, 0, memoryview(shard.header))

    def write(self, shard: int, offset: int, view: memoryview) -> None:
        """Write; thread-safe."""
        self._writers[shard].write(offset, view)

    def digest(self, shard: int, offset: int, view: memoryview) -> None:
        """Digest what was written, while it is in cache; thread-safe."""
        self._digests[shard].add(offset, view)

    def descriptor(self, shard: int) -> int:
        """The open file of a shard, for positioned writes."""
        return self._writers[shard].descriptor

    def temporary(self, shard: int) -> Path:
        """The name that a shard has until it is finished."""
        return self._writers[shard].temporary

    def passed(self, shard: int, start: int, stop: int, first: int, digests: bytes) -> None:
        """A range was written elsewhere, where blocks from ``first`` on were digested, in 16 bytes each."""
        self._digests[shard].passed(start, stop, first, digests)

    def incomplete(self) -> list[tuple[int, int]]:
        """Blocks that are to be read again to be digested: (shard, index)."""
        return [(shard, index) for shard, blocks in enumerate(self._digests) for index in blocks.incomplete()]

    def complete(self, block: tuple[int, int]) -> int:
        """Read what is missing of one block; returns its size."""
        shard, index = block
        self._digests[shard].complete(index)
        return self.length(block)

    def length(self, block: tuple[int, int]) -> int:
        """Bytes of a block."""
        return self._digests[block[0]].length(block[1])

    def publish(self) -> dict[str, FileRecord]:
        """Sync all shards and give them their names; returns what the manifest says of them."""
        files = {}
        for writer, digests in zip(self._writers, self._digests, strict=True):
            blocks = digests.digests()
            files[writer.path.name] = {
                "size": writer.size,
                "digest": combine(blocks).hex(),
                "regions": [region.hex() for region in regions(blocks)],
            }
        for writer in self._writers:
            writer.sync()
        self._journal.publishing()
        for writer in self._writers:
            writer.finish()
        return files

    def close(self) -> None:
        """Close the files, leaving them as they are."""
        for writer in self._writers:
            writer.close()

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _reader(self, shard: int) -> Callable[[memoryview, int], None]:
        def read(view: memoryview, offset: int) -> None:
            self._writers[shard].read_into(offset, view)

        return read

    def _on_blocks(self, shard: int) -> Callable[[int, bytes], None]:
        def record(first: int, digests: bytes) -> None:
            self._journal.blocks(shard, first, digests)

        return record


def write_small(folder: Path, name: str, content: bytes) -> FileRecord:
    """Write a small file atomically; returns what the manifest says of it."""
    atomic_write(folder / name, content)
    digests = [block_digest(content[start : start + BLOCK]) for start in range(0, len(content), BLOCK)]
    return {"size": len(content), "digest": combine(digests).hex()}


def copy_side_file(source: Path, folder: Path, edits: Edits) -> FileRecord:
    """Copy a file of the template, with the changes that the plan asks for."""
    changed = edits.content(source)
    if changed is not None:
        return write_small(folder, source.name, changed)
    target = folder / source.name
    descriptor = open_descriptor(source)
    try:
        with ShardWriter(target, os.fstat(descriptor).st_size) as writer:
            buffer = memoryview(bytearray(_CHUNK))
            for start in range(0, writer.size, _CHUNK):
                view = buffer[: writer.size - start]
                read_exact(descriptor, view, start, source)
                writer.write(start, view)
            writer.finish()
    finally:
        os.close(descriptor)
    _, digest = hash_file(target)
    return {"size": target.stat().st_size, "digest": digest.hex()}


def remove_stale(folder: Path, keep: Iterable[str]) -> None:
    """Remove weight files of an earlier merge: a loader would mistake them for a part of this one."""
    kept = set(keep)
    for path in folder.iterdir():
        if _WEIGHTS.fullmatch(path.name) and path.name not in kept:
            path.unlink()


def is_own_rest(name: str) -> bool:
    """Whether a file is what a merge leaves whose journal does not even say whose it is: of no use to anybody."""
    return name in (LOCK_NAME, JOURNAL_NAME) or _PARTIAL_WEIGHTS.fullmatch(name) is not None


def remove_partials(folder: Path, names: Iterable[str]) -> None:
    """Remove what an unfinished merge left of weights, and of the files named, under temporary names."""
    written = {temporary_name(folder / name) for name in names}
    for path in folder.glob(".*.partial"):
        if path in written or _WEIGHTS.fullmatch(path.name[1 : -len(".partial")]):
            path.unlink(missing_ok=True)


def is_whole(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether all files are there, in their sizes."""
    try:
        return all((folder / name).stat().st_size == record["size"] for name, record in files.items())
    except OSError:
        return False
