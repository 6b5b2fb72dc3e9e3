"""Digests of a file's blocks, taken from the bytes as they pass, in whatever order they pass."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Mapping

import xxhash

from sta_kernels.checkpoint.digest import BLOCK

_CHUNK = 1 << 18
_scratch = threading.local()


class _Block:
    """A block on its way: hashed up to ``next``; what came early waits, by its range, to be read back."""

    __slots__ = ("early", "lock", "next", "state", "stop")

    def __init__(self, start: int, stop: int) -> None:
        self.lock = threading.Lock()
        self.state = xxhash.xxh3_128()
        self.next = start
        self.stop = stop
        self.early: list[tuple[int, int]] = []


class BlockDigests:
    """XXH3-128 of every 4 MiB block of a file whose bytes pass by in pieces.

    A piece that continues its block is hashed from memory, while it is in cache. One that comes before its
    predecessor is noted, and read back once the predecessor has come; by then the page cache holds it.

    Args:
        size: bytes of the file.
        read: fills a view from an offset of the file.
        on_block: told of each block that is complete, with its digest; from any thread.
        known: digests that need not be taken again.
    """

    def __init__(
        self,
        size: int,
        read: Callable[[memoryview, int], None],
        on_block: Callable[[int, bytes], None] | None = None,
        known: Mapping[int, bytes] | None = None,
    ) -> None:
        self._size = size
        self._read = read
        self._on_block = on_block
        self._digests: dict[int, bytes] = dict(known or {})
        self._open: dict[int, _Block] = {}
        self._lock = threading.Lock()
        self.count = -(-size // BLOCK)

    def add(self, offset: int, view: memoryview) -> None:
        """Take in the bytes at ``offset``, which the file holds already; thread-safe."""
        done = 0
        while done < len(view):
            start = offset + done
            index = start // BLOCK
            length = min(len(view) - done, (index + 1) * BLOCK - start)
            block = self._block(index)
            if block is not None:
                with block.lock:
                    self._piece(index, block, start, view[done : done + length])
            done += length

    def incomplete(self) -> list[int]:
        """Blocks whose bytes have not all passed."""
        return [index for index in range(self.count) if index not in self._digests]

    def length(self, index: int) -> int:
        """Bytes of a block."""
        return min(BLOCK, self._size - index * BLOCK)

    def complete(self, index: int) -> None:
        """Read what is missing of a block from the file."""
        block = self._block(index)
        if block is not None:
            with block.lock:
                self._read_back(block, block.stop)
                self._close(index, block)

    def digest(self, index: int) -> bytes:
        """Of one block, which must be complete."""
        return self._digests[index]

    def digests(self) -> list[bytes]:
        """One per block; all must be complete."""
        return [self._digests[index] for index in range(self.count)]

    def _block(self, index: int) -> _Block | None:
        with self._lock:
            if index in self._digests:
                return None
            block = self._open.get(index)
            if block is None:
                stop = min((index + 1) * BLOCK, self._size)
                block = self._open[index] = _Block(index * BLOCK, stop)
            return block

    def _piece(self, index: int, block: _Block, start: int, view: memoryview) -> None:
        if start > block.next:
            bisect.insort(block.early, (start, start + len(view)))
            return
        block.state.update(view[block.next - start :])
        block.next = max(block.next, start + len(view))
        while block.early and block.early[0][0] <= block.next:
            self._read_back(block, block.early.pop(0)[1])
        if block.next == block.stop:
            self._close(index, block)

    def _read_back(self, block: _Block, stop: int) -> None:
        if not hasattr(_scratch, "buffer"):
            _scratch.buffer = memoryview(bytearray(_CHUNK))
        while block.next < stop:
            view = _scratch.buffer[: min(_CHUNK, stop - block.next)]
            self._read(view, block.next)
            block.state.update(view)
            block.next += len(view)

    def _close(self, index: int, block: _Block) -> None:
        with self._lock:
            if index in self._digests:
                return
            digest = self._digests[index] = block.state.digest()
            del self._open[index]
        if self._on_block is not None:
            self._on_block(index, digest)
