"""The safetensors header: 8 bytes of length, JSON, then the tensors' bytes without gap or overlap.

Format: https://github.com/huggingface/safetensors (README, "Format"). The header comes from whoever made the file, so
nothing in it is believed before it was checked against the file's size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sta_kernels.checkpoint.entry import MAX_RANK, TensorEntry, byte_size
from sta_kernels.errors import InputError

LENGTH_BYTES = 8
METADATA_KEY = "__metadata__"
MAX_HEADER = 100_000_000
"""Longest header in bytes, as the format's own library has it."""
_POINTER = b"version https://git-lfs"
_MAX_POINTER = 1024
_MAX_SIZE = 2**63 - 1
_MAX_NAME = 4096


def header_length(prefix: bytes, file_size: int, file: Path) -> int:
    """Bytes of JSON that follow the first eight.

    Args:
        prefix: first eight bytes of the file, fewer where the file is shorter.
        file_size: bytes of the whole file.
        file: named in errors.

    Raises:
        InputError: not a safetensors file.
    """
    if len(prefix) < LENGTH_BYTES:
        raise InputError(f"{file}: {file_size} bytes is too short for a safetensors file")
    check_pointer(prefix, file_size, file)
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER:
        raise InputError(f"{file}: not a safetensors file: a header of {length} bytes exceeds {MAX_HEADER}")
    if length < 2 or LENGTH_BYTES + length > file_size:
        raise InputError(f"{file}: a header of {length} bytes does not fit a file of {file_size}; truncated?")
    return length


def check_pointer(prefix: bytes, file_size: int, file: Path) -> None:
    """Refuse a Git LFS pointer, the small text that a clone without LFS leaves in a file's place.

    Args:
        prefix: first bytes of the file, eight or more.
        file_size: bytes of the whole file.
        file: named in errors.

    Raises:
        InputError: it is one.
    """
    if file_size < _MAX_POINTER and len(prefix) >= LENGTH_BYTES and _POINTER.startswith(prefix[: len(_POINTER)]):
        raise InputError(f"{file}: a Git LFS pointer rather than the file itself; fetch it with `git lfs pull`")


def parse_header(header: bytes, file_size: int, file: Path) -> tuple[list[TensorEntry], dict[str, str]]:
    """Entries in the order of their bytes, and the file's metadata.

    Args:
        header: the JSON part.
        file_size: bytes of the whole file.
        file: named in errors and entries.

    Raises:
        InputError: anything that a well-formed file cannot hold.
    """
    table = parse_json(header, file)
    metadata = table.pop(METADATA_KEY, {})
    if not isinstance(metadata, dict) or not all(_is_text(part) for item in metadata.items() for part in item):
        raise InputError(f"{file}: __metadata__ must map strings to strings")
    start = LENGTH_BYTES + len(header)
    entries = [_entry(name, record, start, file) for name, record in table.items()]
    entries.sort(key=_position)
    _check_cover(entries, start, file_size, file)
    return entries, metadata


def parse_json(text: bytes, file: Path) -> dict[str, Any]:
    """A JSON object of an untrusted file: strict UTF-8, no repeated key, no bottomless nesting.

    Raises:
        InputError: says what is wrong.
    """

    def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise InputError(f"{file}: {twice!a} stands there twice")
        return record

    def no_constant(name: str) -> Any:
        raise InputError(f"{file}: {name} is not JSON")

    def integer(digits: str) -> int:
        if digits == "-0":
            raise InputError(f"{file}: -0 is no size")
        return int(digits)

    if text[:1] != b"{":
        raise InputError(f"{file}: not a JSON object")
    try:
        table = json.loads(
            text.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant, parse_int=integer
        )
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: its JSON is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise InputError(f"{file}: its JSON is nested too deep") from None
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{file}: not valid JSON: {error}") from None
    return table


def check_name(name: str, file: Path) -> None:
    """Refuse a tensor name that could mislead a terminal, a log or whatever turns names into paths.

    Raises:
        InputError: empty, too long, unprintable (control, bidirectional, unpaired surrogates), reserved, or with a path
            separator.
    """
    if not name or len(name) > _MAX_NAME:
        raise InputError(f"{file}: a tensor name of {len(name)} characters; 1 to {_MAX_NAME} are allowed")
    if name == METADATA_KEY:
        raise InputError(f"{file}: the tensor name {name!r} is reserved by the format")
    if not name.isprintable():
        raise InputError(f"{file}: the tensor name {name!a} holds unprintable characters")
    if "/" in name or "\\" in name:
        raise InputError(f"{file}: the tensor name {name!r} holds a path separator")


def _entry(name: str, record: Any, start: int, file: Path) -> TensorEntry:
    """Check one record by itself."""
    check_name(name, file)
    if not isinstance(record, Mapping) or record.keys() != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"{file}: tensor {name!r}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = record["dtype"], record["shape"], record["data_offsets"]
    if not _is_sizes(shape) or len(shape) > MAX_RANK:
        raise InputError(f"{file}: tensor {name!r}: shape must be a list of at most {MAX_RANK} sizes")
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise InputError(f"{file}: tensor {name!r}: data_offsets must be two sizes, begin and end")
    begin, end = offsets
    try:
        nbytes = byte_size(dtype, tuple(shape))
    except (ValueError, TypeError) as error:
        raise InputError(f"{file}: tensor {name!r}: {error}") from None
    if end - begin != nbytes:
        raise InputError(
            f"{file}: tensor {name!r}: {dtype} {shape} takes {nbytes} bytes, but its data_offsets are [{begin}, {end}]"
        )
    return TensorEntry(name, dtype, tuple(shape), nbytes, file, start + begin)


def _is_sizes(value: Any) -> bool:
    """A list of integers that fit a file offset; JSON's true and 1.0 are neither."""
    return isinstance(value, list) and all(type(size) is int and 0 <= size <= _MAX_SIZE for size in value)


def _is_text(value: Any) -> bool:
    """A string that can be written out again; JSON can spell unpaired surrogates."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _position(entry: TensorEntry) -> tuple[int, int]:
    assert entry.offset is not None
    return entry.offset, entry.nbytes


def _check_cover(entries: Sequence[TensorEntry], start: int, file_size: int, file: Path) -> None:
    """The tensors must cover the bytes behind the header exactly: no overlap, no hole, no rest, nothing missing."""
    reached = start
    for entry in entries:
        begin = _position(entry)[0]
        if begin != reached:
            what = "overlaps the tensor before it" if begin < reached else "leaves a hole before it"
            raise InputError(f"{file}: tensor {entry.name!r} {what} (byte {begin}, expected {reached})")
        reached = begin + entry.nbytes
    if reached != file_size:
        what = "truncated" if reached > file_size else "bytes that belong to no tensor"
        raise InputError(f"{file}: {file_size} bytes, but its header describes {reached}: {what}")
