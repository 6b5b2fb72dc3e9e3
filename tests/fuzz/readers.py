"""What reads bytes that somebody else wrote: one function each, which returns whether they were accepted.

Whatever the bytes are, a reader understands them or raises InputError. Anything else it raises is a defect, as is a
message that a terminal could not show.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from safetensors import deserialize

from sta_kernels.checkpoint import ImportanceMetadata
from sta_kernels.checkpoint.adapter_config import AdapterConfig
from sta_kernels.checkpoint.folder import parse_index
from sta_kernels.checkpoint.header import LENGTH_BYTES, header_length, parse_header, parse_json
from sta_kernels.checkpoint.source import Identity
from sta_kernels.cli import printable
from sta_kernels.engine.journal import parse_journal
from sta_kernels.engine.manifest import parse_manifest
from sta_kernels.errors import InputError
from sta_kernels.recipe import Recipe

FILE = Path("file")


def header(data: bytes) -> None:
    """A safetensors file; what is accepted, the format's own library accepts."""
    length = header_length(data[:LENGTH_BYTES], len(data), FILE)
    entries, _ = parse_header(data[LENGTH_BYTES : LENGTH_BYTES + length], len(data), FILE)
    table = dict(deserialize(data))
    assert {entry.name: list(entry.shape) for entry in entries} == {name: t["shape"] for name, t in table.items()}


def index(data: bytes) -> None:
    """An index of shards."""
    parse_index(data, FILE)


def recipe(data: bytes) -> None:
    """A recipe; paths that it names are looked for, and found only where they are."""
    Recipe.parse(data.decode("utf-8", "replace"))


def importance(data: bytes) -> None:
    """Metadata of an importance file: JSON, string to string, as a header's."""
    table = parse_json(data, FILE)
    if all(isinstance(value, str) for value in table.values()):
        known = ImportanceMetadata.from_metadata(table)
        assert known is None or ImportanceMetadata.from_metadata(known.to_metadata()) is not None


def adapter(data: bytes) -> None:
    """An adapter's configuration; its patterns are tried on a name."""
    config = AdapterConfig.parse(data, FILE, Identity(len(data), 0))
    config.scale_of("model.layers.10.self_attn.q_proj")
    config.saves("model.layers.10.self_attn.q_proj.weight")


def journal(data: bytes) -> None:
    """A journal; what it claims is counted, not believed."""
    records = parse_journal(io.BytesIO(data))
    assert records is None or 0 <= records.length <= len(data)


def manifest(data: bytes) -> None:
    """A manifest."""
    parse_manifest(data, FILE).summary()


READERS: dict[str, Callable[[bytes], None]] = {
    reader.__name__: reader for reader in (header, index, recipe, importance, adapter, journal, manifest)
}


def accepts(reader: Callable[[bytes], None], data: bytes) -> bool:
    """Whether a reader understands the bytes, rather than refuse them in words."""
    try:
        reader(data)
    except InputError as error:
        said = printable(str(error))
    else:
        return True
    assert all(map(str.isprintable, said.split("\n")))
    return False
