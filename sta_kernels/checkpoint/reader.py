"""Open a checkpoint: one file, or a folder of shards, as a table of tensors whose bytes can be read by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from sta_kernels.checkpoint.entry import TensorEntry
from sta_kernels.checkpoint.folder import (
    INDEX_SUFFIX,
    TORCH_SUFFIXES,
    Index,
    find_weights,
    inside,
    read_index,
    side_files,
    split_reference,
)
from sta_kernels.checkpoint.names import plain_names
from sta_kernels.checkpoint.positioned import byte_view
from sta_kernels.checkpoint.source import Identity, SafetensorsSource, Source
from sta_kernels.errors import InputError


class Checkpoint:
    """The tensors of a model or of an importance; a context manager.

    Attributes:
        path: as given to :func:`open_checkpoint`.
        entries: plain name to :class:`TensorEntry`, shard after shard, in the order of their bytes.
        aliases: tied name to the name in ``entries`` that holds its bytes (only ``.pt`` files tie).
        metadata: strings of the safetensors headers; of shards, those on which all that carry the key agree.
        files: weight files, and the index of shards.
        left_out: what ``.pt`` files hold beside tensors.
    """

    def __init__(self, path: Path, sources: Sequence[Source], index: Index | None, folder: Path | None) -> None:
        self.path = path
        self._sources = tuple(sources)
        self._folder = folder
        self._identities = {source.file: source.identity for source in sources}
        if index is not None:
            self._identities[index.file] = index.identity
        self.files: tuple[Path, ...] = tuple(self._identities)
        self.metadata = _agreed([source.metadata for source in sources])
        self.left_out = tuple(name for source in sources for name in source.left_out)
        stored = [name for source in sources for name in (*(e.name for e in source.entries), *source.aliases)]
        plain = plain_names(stored)
        self.entries: dict[str, TensorEntry] = {}
        self.aliases: dict[str, str] = {}
        self._readers: dict[str, tuple[Source, TensorEntry]] = {}
        for source in sources:
            for entry in source.entries:
                name = plain[entry.name]
                self.entries[name] = entry if name == entry.name else replace(entry, name=name)
                self._readers[name] = (source, entry)
            self.aliases.update({plain[name]: plain[first] for name, first in source.aliases.items()})

    def find(self, name: str) -> TensorEntry | None:
        """Entry that holds the bytes of ``name``, tied names resolved; None where the checkpoint has none."""
        return self.entries.get(self.aliases.get(name, name))

    def read_into(self, name: str, byte_start: int, view: Any) -> None:
        """Fill ``view`` with bytes of a tensor (C order, little-endian), from ``byte_start`` on. Thread-safe.

        Args:
            name: a key of ``entries``, or a tied name.
            byte_start: within the tensor. Where a ``.pt`` file's tensor is not contiguous, start and length must keep
                its elements whole.
            view: writable, C-contiguous buffer; its length says how much is read.

        Raises:
            KeyError: no such tensor.
            ValueError: the range leaves the tensor.
            RunError: read error, truncated or changed file; names file and offset.
        """
        source, entry = self._readers[self.aliases.get(name, name)]
        target = byte_view(view)
        if byte_start < 0 or byte_start + len(target) > entry.nbytes:
            stop = byte_start + len(target)
            raise ValueError(f"{name}: bytes [{byte_start}, {stop}) of a tensor of {entry.nbytes}")
        if len(target):
            source.read_into(entry, byte_start, target)

    def flat(self, name: str) -> tuple[SafetensorsSource, int] | None:
        """The file that holds a tensor's bytes as they are read, and the offset of the first; None where none does."""
        stored = self.aliases.get(name, name)
        source, offset = self._readers[stored][0], self.entries[stored].offset
        return (source, offset) if isinstance(source, SafetensorsSource) and offset is not None else None

    def fingerprint(self) -> list[tuple[Path, int, int]]:
        """(file, size, mtime in ns) of every file, as they were when opened."""
        return [(file, identity.size, identity.mtime_ns) for file, identity in self._identities.items()]

    def check_unchanged(self) -> None:
        """Raise RunError, naming the file, where one is no longer what was opened."""
        for file, identity in self._identities.items():
            identity.check(file)

    def side_files(self) -> list[Path]:
        """Configuration, tokenizer and other small files of the folder; none where a bare file was opened.

        Raises:
            InputError: one is a link that leads outside the folder.
        """
        return side_files(self._folder) if self._folder is not None else []

    def close(self) -> None:
        """Give up descriptors and mappings."""
        for source in self._sources:
            source.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {len(self.entries)} tensors, {len(self.files)} files)"


def open_checkpoint(path: str | Path, *, stem: str = "model") -> Checkpoint:
    """Open a checkpoint for reading; only headers are read.

    Args:
        path: a folder (``model.safetensors``, its index of shards, any single ``.safetensors``, ``pytorch_model.bin``
            or its index, a single ``.pt``), or one such file or index. ``MODEL+ADAPTER`` is a model with a folder that
            holds a LoRA adapter for it.
        stem: what is looked for in a folder: ``model``, or ``importance``.

    Raises:
        InputError: nothing there that can be read as a checkpoint, a malformed or hostile file, an index that does not
            describe its shards. Names the file.
        RunError: the device failed.
    """
    parts = split_reference(path)
    if parts is not None:
        from sta_kernels.checkpoint.adapter import open_adapted  # which builds on this module

        return open_adapted(Path(path), *parts)
    path = Path(path)
    folder = path if path.is_dir() else None
    file = find_weights(path, stem) if folder is not None else path
    if file.name.endswith(INDEX_SUFFIX):
        index = read_index(inside(folder, file.name) if folder is not None else file)
        shards = [inside(file.parent, name) for name in sorted(set(index.weight_map.values()))]
        sources = _open_all(shards)
        try:
            _check_index(index, sources)
        except InputError:
            _close_all(sources)
            raise
        return Checkpoint(path, sources, index, folder)
    if folder is not None:
        inside(folder, file.name)
    return Checkpoint(path, _open_all([file]), None, folder)


def _open_all(files: Sequence[Path]) -> list[Source]:
    sources: list[Source] = []
    try:
        for file in files:
            sources.append(_open_file(file))
    except BaseException:
        _close_all(sources)
        raise
    return sources


def _close_all(sources: Sequence[Source]) -> None:
    for source in sources:
        source.close()


def _open_file(file: Path) -> Source:
    """By suffix; what the file really holds is then checked by its reader."""
    if file.name.endswith(TORCH_SUFFIXES):
        Identity.of(file)  # a missing file is reported before torch is imported
        from sta_kernels.checkpoint.torch_source import TorchSource

        return TorchSource(file)
    if file.suffix == ".safetensors":
        return SafetensorsSource(file)
    Identity.of(file)
    raise InputError(f"{file}: expected .safetensors, {', '.join(TORCH_SUFFIXES)} or {INDEX_SUFFIX}")


def _check_index(index: Index, sources: Sequence[Source]) -> None:
    """Index and shards must tell the same story, tensor by tensor: a lost tensor must not pass unseen."""
    holder: dict[str, str] = {}
    for source in sources:
        for name in (*(entry.name for entry in source.entries), *source.aliases):
            if name in holder:
                raise InputError(f"{source.file}: holds {name!r}, and so does {holder[name]}")
            holder[name] = source.file.name
    for name, shard in index.weight_map.items():
        if holder.get(name) != shard:
            where = f"it is in {holder[name]}" if name in holder else "no shard holds it"
            raise InputError(f"{index.file}: places {name!a} in {shard}, but {where}")
    unlisted = next((name for name in holder if name not in index.weight_map), None)
    if unlisted is not None:
        raise InputError(f"{index.file}: does not list {unlisted!r}, which {holder[unlisted]} holds")


def _agreed(tables: Sequence[dict[str, str]]) -> dict[str, str]:
    """Union of the shards' metadata, without the keys on which they differ."""
    merged: dict[str, str] = {}
    differing = set()
    for table in tables:
        for key, value in table.items():
            if merged.setdefault(key, value) != value:
                differing.add(key)
    return {key: value for key, value in merged.items() if key not in differing}
