"""Digests: XXH3-128 of blocks, and of the blocks' digests.

A file's digest is that of the concatenated 16-byte digests of its 256 KiB blocks, so blocks can be digested in any
order, by any thread, while their bytes are in cache. A tensor is digested as if its float32 values were a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import xxhash

from sta_kernels.checkpoint.names import plain_names
from sta_kernels.checkpoint.positioned import byte_view, read_exact
from sta_kernels.checkpoint.source import Identity, open_descriptor

BLOCK = 256 << 10
"""Bytes per block; the last one of a file may be shorter."""
REGION = 16
"""Blocks of which a manifest keeps one digest, to say where a file differs."""


def block_digest(block: Any) -> bytes:
    """16-byte digest of one block of at most :data:`BLOCK` bytes."""
    return xxhash.xxh3_128_digest(byte_view(block))


def combine(blocks: Iterable[bytes]) -> bytes:
    """16-byte digest of a file, from its blocks' digests in order."""
    return xxhash.xxh3_128_digest(b"".join(blocks))


def regions(blocks: Sequence[bytes]) -> list[bytes]:
    """Digests of the blocks' regions, in order."""
    return [combine(blocks[start : start + REGION]) for start in range(0, len(blocks), REGION)]


def hash_file(path: str | Path) -> tuple[list[bytes], bytes]:
    """Digests of a file's blocks, and of the file.

    Raises:
        InputError: no such regular file.
        RunError: read error, or the file changed meanwhile.
    """
    file = Path(path)
    fd = open_descriptor(file)
    try:
        identity = Identity.of(file, fd)
        buffer = memoryview(bytearray(min(BLOCK, identity.size)))
        blocks = []
        for start in range(0, identity.size, BLOCK):
            view = buffer[: identity.size - start]
            read_exact(fd, view, start, file)
            blocks.append(block_digest(view))
        identity.check(file, fd)
    finally:
        os.close(fd)
    return blocks, combine(blocks)


class TensorDigest:
    """Digest of a tensor's float32 values, fed in order in pieces of any size."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._current = xxhash.xxh3_128()
        self._filled = 0

    def update(self, chunk: Any) -> None:
        """Take in the next values: a C-contiguous buffer of little-endian float32."""
        data = byte_view(chunk)
        while len(data):
            piece = data[: BLOCK - self._filled]
            self._current.update(piece)
            self._filled += len(piece)
            data = data[len(piece) :]
            if self._filled == BLOCK:
                self._blocks.append(self._current.digest())
                self._current = xxhash.xxh3_128()
                self._filled = 0

    def digest(self) -> bytes:
        """16 bytes, equal to :func:`combine` of the blocks' digests."""
        return combine([*self._blocks, self._current.digest()] if self._filled else self._blocks)


def combine_tensors(digests: Iterable[tuple[str, bytes]]) -> str:
    """Model digest from (name, tensor digest); neither the order nor wrapping prefixes of the names matter.

    Returns:
        32 hexadecimal digits.
    """
    table = dict(digests)
    plain = plain_names(table)
    state = xxhash.xxh3_128()
    for name in sorted(table, key=lambda stored: plain[stored]):
        text = plain[name].encode()
        state.update(len(text).to_bytes(8, "little") + text + table[name])
    return state.hexdigest()


def model_digest(items: Iterable[tuple[str, Iterable[Any]]]) -> str:
    """Digest of a model's values, the same for every dtype that holds them exactly.

    Args:
        items: (name, chunks) per tensor; chunks are C-contiguous float32 buffers, in order.

    Returns:
        32 hexadecimal digits; see :func:`combine_tensors`.
    """

    def one(chunks: Iterable[Any]) -> bytes:
        digest = TensorDigest()
        for chunk in chunks:
            digest.update(chunk)
        return digest.digest()

    return combine_tensors((name, one(chunks)) for name, chunks in items)
