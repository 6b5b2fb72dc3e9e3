"""Which files of a folder make up a checkpoint, and which of them may be followed where they point."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sta_kernels.checkpoint.header import MAX_HEADER, parse_json
from sta_kernels.checkpoint.positioned import read_exact
from sta_kernels.checkpoint.source import Identity, open_descriptor
from sta_kernels.errors import InputError, RunError

INDEX_SUFFIX = ".index.json"
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
WEIGHT_SUFFIXES = (".safetensors", *TORCH_SUFFIXES, ".h5", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".ot", ".pkl")
"""Files that hold weights in any format; the first ones are read, none is copied along."""
_ADAPTER = "adapter_model."
_NO_WEIGHTS = ("training_args.bin", "optimizer", "scheduler", "rng_state", _ADAPTER)
"""How files begin that stand beside a model's weights, in a format of weights, and are none."""


@dataclass(frozen=True, slots=True)
class Index:
    """A shard index: which file holds which tensor."""

    file: Path
    identity: Identity
    weight_map: dict[str, str]


def find_weights(folder: Path, stem: str) -> Path:
    """The weight file, or the index of the shards, of a folder.

    ``<stem>.safetensors``, its index, any single safetensors file or index; then ``pytorch_<stem>.bin``, its index, any
    single PyTorch file.

    Args:
        folder: to look in.
        stem: ``model``, or ``importance``.

    Raises:
        InputError: none, or several; lists them.
    """
    names = _listing(folder)
    for fixed in (f"{stem}.safetensors", f"{stem}.safetensors{INDEX_SUFFIX}"):
        if fixed in names:
            return folder / fixed
    candidates = [name for name in names if name.isprintable() and not name.startswith(_NO_WEIGHTS)]
    if stem != "importance":
        candidates = [name for name in candidates if not is_importance(name)]
    indices = [name for name in candidates if name.endswith(INDEX_SUFFIX)]
    for suffixes in ((".safetensors",), TORCH_SUFFIXES):
        for fixed in (f"pytorch_{stem}.bin", f"pytorch_{stem}.bin{INDEX_SUFFIX}") if suffixes is TORCH_SUFFIXES else ():
            if fixed in names:
                return folder / fixed
        found = [name for name in indices if name.removesuffix(INDEX_SUFFIX).endswith(suffixes)]
        found = found or [name for name in candidates if name.endswith(suffixes)]
        if len(found) == 1:
            return folder / found[0]
        if found:
            listed = ", ".join(found[:8])
            raise InputError(f"{folder}: several files could be the {stem}: {listed}; name one of them")
    if "adapter_config.json" in names and stem == "model":
        raise InputError(f"{folder}: a LoRA adapter; name it behind its model, as MODEL+{folder.name}")
    raise InputError(f"{folder}: holds no {stem}.safetensors, no {stem}.safetensors{INDEX_SUFFIX} and no PyTorch file")


def split_reference(reference: str | os.PathLike[str]) -> tuple[str, str] | None:
    """Model and adapter of ``MODEL+ADAPTER``; None for anything else.

    A name that is there as it stands is no such pair, and a plus sign may be part of either name.
    """
    text = os.fspath(reference)
    if os.path.exists(text):
        return None
    for match in re.finditer(r"\+", text):
        model, adapter = text[: match.start()], text[match.end() :]
        if os.path.exists(model) and os.path.isdir(adapter):
            return model, adapter
    return None


def is_importance(name: str) -> bool:
    """Whether a file belongs to an importance, single or sharded, that stands beside a model."""
    return name.startswith("importance") and (
        name.endswith(".safetensors") or name.endswith(".safetensors" + INDEX_SUFFIX)
    )


def side_files(folder: Path) -> list[Path]:
    """Configuration, tokenizer and the like: visible regular files that hold and index neither weights nor importance.

    Sub-folders are left alone. A link that leads outside is refused: what it points at would be copied into the output.
    """
    files = []
    for name in _listing(folder):
        if name.startswith(".") or name.endswith((*WEIGHT_SUFFIXES, INDEX_SUFFIX)):
            continue
        path = folder / name
        if path.is_file():
            files.append(inside(folder, name))
    return files


def read_index(file: Path) -> Index:
    """Parse and check a shard index.

    Raises:
        InputError: not an index, or one that names anything but plain file names.
        RunError: the device failed.
    """
    text, identity = read_small(file, "an index")
    return Index(file, identity, parse_index(text, file))


def read_small(file: Path, kind: str) -> tuple[bytes, Identity]:
    """All of a file that describes others, and which file that was.

    Args:
        file: to be read.
        kind: what it is, with its article, for the message.

    Raises:
        InputError: it is missing, or has more than ``MAX_HEADER`` bytes: no description of anything.
        RunError: the device failed; names the file.
    """
    identity = Identity.of(file)
    if identity.size > MAX_HEADER:
        raise InputError(f"{file}: {kind} of {identity.size} bytes exceeds {MAX_HEADER}")
    fd = open_descriptor(file)
    try:
        text = bytearray(identity.size)
        read_exact(fd, memoryview(text), 0, file)
    finally:
        os.close(fd)
    return bytes(text), identity


def read_json(file: Path) -> dict[str, Any] | None:
    """The mapping that a file holds; None where it holds none, or nothing that anybody would take for one.

    Raises:
        RunError: the device failed.
    """
    try:
        content = json.loads(read_small(file, "a configuration")[0])
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def parse_index(text: bytes, file: Path) -> dict[str, str]:
    """Which file holds which tensor, as an index says.

    Raises:
        InputError: not an index, or one that names anything but plain file names.
    """
    weight_map = parse_json(text.strip(), file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{file}: weight_map must map tensor names to file names")
    for shard in weight_map.values():
        if not isinstance(shard, str) or not is_plain(shard):
            raise InputError(f"{file}: weight_map names {shard!a}, which is no plain file name in its own folder")
    return weight_map


def inside(folder: Path, name: str) -> Path:
    """Path of a folder's own file, links followed only to where that folder's files live.

    A hub cache keeps ``<repository>/snapshots/<revision>/<file>`` as links to ``<repository>/blobs/<hash>``; that, and
    a link that stays in the folder, is followed. Any other would make a downloaded folder read what it was not given.

    Raises:
        InputError: no such file, one that leads elsewhere, or a name that is not printable.
    """
    path = folder / name
    if not name.isprintable():
        raise InputError(f"{folder}: the file name {name!a} holds unprintable characters")
    try:
        target = path.resolve(strict=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be followed: {error}") from None
    if not any(target.is_relative_to(home) for home in _homes(folder.resolve())):
        raise InputError(f"{path}: leads outside its folder, to {target}; name that file itself if it is meant")
    return path


def _homes(folder: Path) -> Iterable[Path]:
    """Folders in which the files of ``folder`` may live."""
    yield folder
    snapshots = next((parent for parent in folder.parents if parent.name == "snapshots"), None)
    if snapshots is not None:
        yield snapshots.parent / "blobs"


def is_plain(name: str) -> bool:
    """A name with no path in it, printable, fit for every system."""
    return name.isprintable() and name not in ("", ".", "..") and not any(mark in name for mark in "/\\:")


def _listing(folder: Path) -> list[str]:
    """Names in a folder, sorted."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise RunError(f"{folder}: {error.strerror or error}") from error
