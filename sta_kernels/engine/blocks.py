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
    """XXH3-128 of every block of a file whose bytes pass by in pieces.

    A piece that continues its block is hashed from memory, while it is in cache. One that comes before its
    predecessor is noted, and read back once the predecessor has come; by then the page cache holds it.

    Args:
        size: bytes of the file.
        read: fills a view from an offset of the file.
        on_blocks: told of blocks that are complete: the first one's number, and their digests, 16 bytes each; from any
            thread.
        known: digests that need not be taken again.
    """

    def __init__(
        self,
        size: int,
        read: Callable[[memoryview, int], None],
        on_blocks: Callable[[int, bytes], None] | None = None,
        known: Mapping[int, bytes] | None = None,
    ) -> None:
        self._size = size
        self._read = read
        self._on_blocks = on_blocks
        self.count = -(-size // BLOCK)
        self._digests = bytearray(16 * self.count)
        self._known = bytearray(self.count)
        for index, digest in (known or {}).items():
            self._set(index, digest)
        self._open: dict[int, _Block] = {}
        self._lock = threading.Lock()

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

    def passed(self, start: int, stop: int, first: int, digests: bytes) -> None:
        """The bytes [start, stop), which the file holds already, have passed elsewhere; thread-safe.

        Blocks from ``first`` on were digested there, in 16 bytes each. One that is shared with a neighbouring range is
        read back as soon as all of its bytes have passed.
        """
        with self._lock:
            self._set(first, digests)
            for index in [index for index in self._open if first <= index < first + len(digests) // 16]:
                del self._open[index]
        if digests and self._on_blocks is not None:
            self._on_blocks(first, digests)
        for index in {start // BLOCK, (stop - 1) // BLOCK} if stop > start else ():
            block = self._block(index)
            if block is not None:
                with block.lock:
                    self._note(index, block, max(start, index * BLOCK), min(stop, block.stop))

    def _note(self, index: int, block: _Block, start: int, stop: int) -> None:
        bisect.insort(block.early, (start, stop))
        reach = block.next
        for begin, end in block.early:
            reach = max(reach, end) if begin <= reach else reach
        if reach == block.stop:
            self._read_back(block, block.stop)
            self._close(index, block)

    def incomplete(self) -> list[int]:
        """Blocks whose bytes have not all passed."""
        return [index for index, known in enumerate(self._known) if not known]

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
        return bytes(self._digests[16 * index : 16 * index + 16])

    def digests(self) -> list[bytes]:
        """One per block; all must be complete."""
        return [self.digest(index) for index in range(self.count)]

    def _set(self, first: int, digests: bytes) -> None:
        count = len(digests) // 16
        self._digests[16 * first : 16 * (first + count)] = digests
        self._known[first : first + count] = b"\1" * count

    def _block(self, index: int) -> _Block | None:
        with self._lock:
            if self._known[index]:
                return None
            block = self._open.get(index)
            if block is None:
                stop = min((index + 1) * BLOCK, self._size)
                block = self._open[index] = _Block(index * BLOCK, stop)
            return block

    def _piece(self, index: int, block: _Block, start: int, view: memoryview) -> None:
        if start > block.next:
            self._note(index, block, start, start + len(view))
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
            if self._known[index]:
                return
            digest = block.state.digest()
            self._set(index, digest)
            del self._open[index]
        if self._on_blocks is not None:
            self._on_blocks(index, digest)
