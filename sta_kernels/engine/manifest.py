"""The record of a finished merge, written last: where it stands, the merge is whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sta_kernels.checkpoint.folder import is_plain
from sta_kernels.checkpoint.header import MAX_HEADER, parse_json
from sta_kernels.checkpoint.source import Identity
from sta_kernels.engine.jobs import Job
from sta_kernels.engine.output import MANIFEST_NAME
from sta_kernels.errors import InputError, RunError
from sta_kernels.methods.base import Method

FORMAT = 3


@dataclass(frozen=True)
class Manifest:
    """What was merged, from what, to what.

    Attributes:
        version: of the package.
        identity: of the plan: recipe, inputs and output layout.
        method: name of the method.
        tier: A: the same bits everywhere; B: by a fixed order of summation.
        served_by: device, backend and reason, of the run that finished it; another would have given the same files.
        served_before: the same of runs that had been stopped, each once, where it differs.
        recipe: its text.
        inputs: per checkpoint: path, whether it is an importance, and its files with size, mtime and digest.
        files: per output file: size, digest, and for weights the digests of their regions of 4 MiB.
        tensors: per merged segment: tensor, elements, and what the method counted (``kept`` per model, ``unrouted``).
        copied: tensors taken from the template as they were.
        notes: what the reader should know.
        already_finished: this was found, not made; not written.
        kept_bytes: taken over from a run that had been stopped; not written.
    """

    version: str
    identity: str
    method: str
    tier: str
    served_by: Mapping[str, str]
    served_before: tuple[Mapping[str, str], ...]
    recipe: str
    inputs: tuple[Mapping[str, Any], ...]
    files: Mapping[str, Mapping[str, Any]]
    tensors: tuple[Mapping[str, Any], ...]
    copied: tuple[str, ...]
    notes: tuple[str, ...]
    already_finished: bool = field(default=False, compare=False)
    kept_bytes: int = field(default=0, compare=False)

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        record = asdict(self)
        del record["already_finished"], record["kept_bytes"]
        return {"format": FORMAT, **record}

    def to_bytes(self) -> bytes:
        """The file's content."""
        return (json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n").encode()

    def summary(self) -> dict[str, Any]:
        """Figures for the reader, as JSON types."""
        elements = sum(tensor["elements"] for tensor in self.tensors)
        counted = [tensor for tensor in self.tensors if "kept" in tensor]
        kept = [sum(column) for column in zip(*(tensor["kept"] for tensor in counted), strict=True)]
        return {
            "method": self.method,
            "tier": self.tier,
            **self.served_by,
            "tensors_merged": len({tensor["tensor"] for tensor in self.tensors}),
            "tensors_copied": len(self.copied),
            "elements_merged": elements,
            "kept": kept,
            "unrouted": sum(tensor["unrouted"] for tensor in counted if "unrouted" in tensor),
            "files": len(self.files),
            "bytes_written": sum(record["size"] for record in self.files.values()),
            "notes": list(self.notes),
            "already_finished": self.already_finished,
            "kept_bytes": self.kept_bytes,
            "devices_before": list(dict.fromkeys(placement["device"] for placement in self.served_before)),
        }


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None where it has none.

    Raises:
        InputError: it cannot be understood.
    """
    path = folder / MANIFEST_NAME
    return parse_manifest(_content(path), path) if os.path.lexists(path) else None


def parse_manifest(text: bytes, path: Path) -> Manifest:
    """Understand what such a file holds; raises InputError as :func:`read_manifest`."""
    record = parse_json(text.strip(), path)
    if record.pop("format", None) != FORMAT:
        raise InputError(f"{path}: not a manifest that this version understands")
    if record.keys() != _KINDS.keys():
        raise InputError(f"{path}: not a manifest; expected the keys {', '.join(sorted(_KINDS))}")
    for name, kind in _KINDS.items():
        if not isinstance(record[name], kind):
            raise InputError(f"{path}: not a manifest; {name} is no {kind.__name__}")
        if kind is list:
            record[name] = tuple(record[name])
    for placement in (record["served_by"], *record["served_before"]):
        if not isinstance(placement, dict) or not all(isinstance(value, str) for value in placement.values()):
            raise InputError(f"{path}: not a manifest; {placement!a} is no placement")
    for tensor in record["tensors"]:
        if not _is_counted(tensor):
            raise InputError(f"{path}: not a manifest; tensors are described by what was counted in them")
    for name, file in record["files"].items():
        if not is_plain(name) or not _is_record(file):
            raise InputError(f"{path}: not a manifest; {name!a} is described as no file of this folder")
    return Manifest(**record)


_KINDS = {
    **dict.fromkeys(("version", "identity", "method", "tier", "recipe"), str),
    **dict.fromkeys(("served_by", "files"), dict),
    **dict.fromkeys(("served_before", "inputs", "tensors", "copied", "notes"), list),
}


def _content(path: Path) -> bytes:
    """Of a manifest, which is a regular file of its own folder."""
    try:
        size = Identity.of(path).size
        if path.is_symlink() or size > MAX_HEADER:
            raise InputError(f"{path}: not a manifest that a merge wrote here")
        return path.read_bytes()
    except (OSError, RunError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def _is_counted(tensor: Any) -> bool:
    """A merged segment, its elements, and numbers per model or for all of them."""
    if not isinstance(tensor, dict) or not {"name", "tensor", "elements"} <= tensor.keys():
        return False
    texts = (tensor["name"], tensor["tensor"])
    counts = [value for key, value in tensor.items() if key not in ("name", "tensor")]
    numbers = [each for value in counts for each in (value if isinstance(value, list) else [value])]
    return all(isinstance(text, str) for text in texts) and all(type(number) is int for number in numbers)


def _is_record(file: Any) -> bool:
    """Size and digest, and of weights those of their regions."""
    regions = file.get("regions", []) if isinstance(file, dict) else None
    return (
        isinstance(regions, list)
        and type(file.get("size")) is int
        and all(isinstance(text, str) for text in (file.get("digest"), *regions))
    )


def tensor_records(
    method: Method, counted: Iterable[tuple[Job, Iterable[int]]], n_all: int
) -> tuple[dict[str, Any], ...]:
    """Per merged segment, what was counted: one list per counter of the models, one number for any other.

    Args:
        method: of the plan.
        counted: jobs, and what was counted in each.
        n_all: models of the plan; those that take no part in a segment have counted nothing there.
    """
    records = []
    for job, counts in counted:
        n_models = len(job.of_role("model"))
        record: dict[str, Any] = {"name": job.name, "tensor": job.tensor, "elements": job.size}
        for i, (name, count) in enumerate(zip(method.counters(n_models), counts, strict=True)):
            if i < n_models:
                record.setdefault(name, [0] * n_all)[job.tasks[i]] += int(count)
            else:
                record[name] = int(count)
        records.append(record)
    return tuple(records)
