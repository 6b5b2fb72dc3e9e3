"""Where each tensor of the output goes: shards, headers and offsets, all known before a byte is written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sta_kernels.checkpoint.entry import BITS, byte_size
from sta_kernels.checkpoint.folder import INDEX_SUFFIX
from sta_kernels.checkpoint.header import LENGTH_BYTES, MAX_HEADER, METADATA_KEY, check_name
from sta_kernels.errors import InputError

Description = tuple[str, str, tuple[int, ...]]
"""Name, safetensors dtype code, shape."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A tensor's place in its shard.

    Attributes:
        name: of the tensor.
        dtype: safetensors code.
        shape: sizes per dimension.
        offset: of its first byte in the file, a multiple of the element size.
        nbytes: bytes that it takes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One output file.

    Attributes:
        file_name: as loaders expect it.
        header: first bytes of the file, length prefix included.
        size: bytes of the whole file.
        tensors: in the order of their bytes; they cover ``[len(header), size)`` without gap.
    """

    file_name: str
    header: bytes
    size: int
    tensors: tuple[Placement, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """All output files.

    Attributes:
        shards: at least one.
        index_name: of the index file; None for a single shard.
        index: its content; None for a single shard.
    """

    shards: tuple[Shard, ...]
    index_name: str | None
    index: bytes | None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(shard.size for shard in self.shards) + len(self.index or b"")


def plan_shards(
    entries: Iterable[Description], shard_bytes: int, metadata: Mapping[str, str] | None = None, *, stem: str = "model"
) -> Layout:
    """Distribute tensors over shards as Hugging Face's libraries do, and write the headers.

    Tensors keep their order from shard to shard; a shard is closed before the tensor that would exceed ``shard_bytes``,
    so only a single larger tensor makes a larger shard. Inside a shard, wider elements come first, so that every tensor
    is aligned to its elements.

    Args:
        entries: (name, dtype code, shape) per tensor, in the order wanted.
        shard_bytes: most tensor bytes per shard; at least 1.
        metadata: strings for every shard's ``__metadata__``; loaders of PyTorch models look for ``format: pt``.
        stem: file names are ``<stem>.safetensors``, or ``<stem>-00001-of-00002.safetensors`` and an index.

    Raises:
        InputError: a name used twice or not allowed, an unknown dtype, a header that would exceed the format's limit.
        ValueError: ``shard_bytes`` below 1.
    """
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes: at least 1, not {shard_bytes}")
    groups = _group(entries, shard_bytes)
    names = [f"{stem}-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
    if len(groups) == 1:
        return Layout((_place(f"{stem}.safetensors", groups[0], metadata),), None, None)
    shards = tuple(_place(name, group, metadata) for name, group in zip(names, groups, strict=True))
    return Layout(shards, f"{stem}.safetensors{INDEX_SUFFIX}", _index(shards))


def _group(entries: Iterable[Description], shard_bytes: int) -> list[list[tuple[Description, int]]]:
    """Consecutive tensors, with their sizes, that fit a shard together."""
    groups: list[list[tuple[Description, int]]] = [[]]
    filled = 0
    seen = set()
    for name, dtype, shape in entries:
        check_name(name, Path("output"))
        if name in seen:
            raise InputError(f"output: two tensors are named {name!r}")
        seen.add(name)
        try:
            nbytes = byte_size(dtype, tuple(shape))
        except ValueError as error:
            raise InputError(f"output: tensor {name!r}: {error}") from None
        if groups[-1] and filled + nbytes > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(((name, dtype, tuple(shape)), nbytes))
        filled += nbytes
    return groups


def _place(file_name: str, group: Sequence[tuple[Description, int]], metadata: Mapping[str, str] | None) -> Shard:
    """Order a shard's tensors, write its header, and turn relative into absolute offsets."""
    ordered = sorted(group, key=lambda item: -BITS[item[0][1]])  # stable: the given order among equals
    table: dict[str, object] = {METADATA_KEY: dict(metadata)} if metadata else {}
    position = 0
    for (name, dtype, shape), nbytes in ordered:
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + nbytes]}
        position += nbytes
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise InputError(
            f"{file_name}: {len(ordered)} tensors need a header of {len(text)} bytes, {MAX_HEADER} are allowed"
        )
    header = len(text).to_bytes(LENGTH_BYTES, "little") + text
    placements = []
    offset = len(header)
    for (name, dtype, shape), nbytes in ordered:
        placements.append(Placement(name, dtype, shape, offset, nbytes))
        offset += nbytes
    return Shard(file_name, header, offset, tuple(placements))


def _index(shards: Sequence[Shard]) -> bytes:
    """The shard index, in the form that transformers writes."""
    total = sum(tensor.nbytes for shard in shards for tensor in shard.tensors)
    weight_map = {tensor.name: shard.file_name for shard in shards for tensor in shard.tensors}
    table = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(table, indent=2, ensure_ascii=False) + "\n").encode()
