"""A finished merge, read again and held against its manifest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sta_kernels.checkpoint.digest import BLOCK, REGION, hash_file, regions
from sta_kernels.engine.journal import JOURNAL_NAME
from sta_kernels.engine.manifest import read_manifest
from sta_kernels.engine.output import MANIFEST_NAME
from sta_kernels.errors import InputError


def verify(out: str | os.PathLike[str]) -> list[str]:
    """Read every file of a merge and compare it with the manifest.

    Args:
        out: the folder that a merge wrote.

    Returns:
        One line per difference; none where every byte is as it was written.

    Raises:
        InputError: the folder holds no finished merge.
        RunError: a file cannot be read.
    """
    folder = Path(os.path.expanduser(out))
    manifest = read_manifest(folder)
    if manifest is None and (folder / JOURNAL_NAME).exists():
        raise InputError(f"{folder}: holds an unfinished merge; run the merge again, it continues where it stopped")
    if manifest is None:
        raise InputError(f"{folder}: holds no finished merge: {MANIFEST_NAME} is missing")
    differences = differing(folder, manifest.files)
    for path in sorted(folder.glob("*.safetensors")):
        if path.name not in manifest.files:
            differences.append(f"{path}: is not part of the merge")
    return differences


def differing(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line per file of a manifest that is not as it was written; reads them all."""
    return [line for name, record in files.items() for line in _differences(folder / name, record)]


def _differences(path: Path, record: Any) -> list[str]:
    if not path.is_file():
        return [f"{path}: is missing"]
    size = path.stat().st_size
    if size != record["size"]:
        return [f"{path}: {size} bytes, {record['size']} were written"]
    blocks, digest = hash_file(path)
    if digest.hex() == record["digest"]:
        return []
    written = record.get("regions", [])
    wrong = [i for i, (now, then) in enumerate(zip(regions(blocks), written, strict=False)) if now.hex() != then]
    if not wrong:
        return [f"{path}: differs from what was written"]
    step = REGION * BLOCK
    return [f"{path}: bytes {i * step} to {min((i + 1) * step, size)} differ from what was written" for i in wrong]
