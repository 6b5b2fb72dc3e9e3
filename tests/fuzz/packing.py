"""Corpora as single small files: inputs one after the other, each after its length in two bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
LONGEST = 4096
"""Bytes of an input."""


def packed(inputs: Iterable[bytes]) -> bytes:
    """One file of many inputs."""
    return b"".join(struct.pack("<H", len(data)) + data for data in inputs)


def unpacked(content: bytes) -> list[bytes]:
    """The inputs again."""
    inputs = []
    while content:
        (length,) = struct.unpack_from("<H", content)
        if len(content) < 2 + length:
            raise ValueError("a corpus that is cut off")
        inputs.append(content[2 : 2 + length])
        content = content[2 + length :]
    return inputs


def corpus(target: str) -> list[bytes]:
    """The committed inputs of a target."""
    path = CORPUS / f"{target}.bin"
    return unpacked(path.read_bytes()) if path.exists() else []
