"""Digests of the input files, taken while a merge reads them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from sta_kernels.checkpoint import TensorEntry
from sta_kernels.checkpoint.digest import combine
from sta_kernels.checkpoint.positioned import read_exact
from sta_kernels.checkpoint.source import open_descriptor
from sta_kernels.engine.blocks import BlockDigests
from sta_kernels.engine.inputs import Inputs


class InputDigests:
    """Block digests of every input file.

    What the merge reads is digested on the way. The rest, which is headers and tensors that no job reads, is read at
    the end.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._lock = threading.Lock()
        self._descriptors: dict[Path, int] = {}
        sizes = {Path(file): size for record in inputs.records for file, size, _ in record.files}
        self._blocks = {file: BlockDigests(size, self._reader(file)) for file, size in sizes.items()}

    def _reader(self, file: Path) -> Callable[[memoryview, int], None]:
        def read(view: memoryview, offset: int) -> None:
            with self._lock:
                if file not in self._descriptors:
                    self._descriptors[file] = open_descriptor(file)
            read_exact(self._descriptors[file], view, offset, file)

        return read

    def add(self, entry: TensorEntry, start: int, view: memoryview) -> None:
        """A tensor's bytes from ``start`` on were read."""
        if entry.offset is not None:
            self._blocks[entry.file].add(entry.offset + start, view)

    def passed(self, file: Path, start: int, stop: int, first: int, digests: bytes) -> None:
        """A range was read elsewhere, where blocks from ``first`` on were digested, in 16 bytes each."""
        self._blocks[file].passed(start, stop, first, digests)

    def incomplete(self) -> list[tuple[Path, int]]:
        """Blocks that are still to be read, in file order."""
        return [(file, index) for file, blocks in self._blocks.items() for index in blocks.incomplete()]

    def complete(self, block: tuple[Path, int]) -> int:
        """Read what is missing of one block; returns its size."""
        file, index = block
        self._blocks[file].complete(index)
        return self.length(block)

    def length(self, block: tuple[Path, int]) -> int:
        """Bytes of a block."""
        return self._blocks[block[0]].length(block[1])

    def result(self) -> dict[str, str]:
        """Digest per file; all blocks must be complete."""
        return {str(file): combine(blocks.digests()).hex() for file, blocks in self._blocks.items()}

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
