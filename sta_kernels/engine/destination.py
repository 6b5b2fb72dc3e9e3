"""The output folder before a merge: whether it may be written, and what an earlier merge left in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sta_kernels.checkpoint.folder import split_reference
from sta_kernels.engine.inputs import Inputs
from sta_kernels.engine.jobs import Plan
from sta_kernels.engine.journal import JOURNAL_NAME, Records, read_journal
from sta_kernels.engine.manifest import Manifest, read_manifest
from sta_kernels.engine.output import is_own_rest, is_whole
from sta_kernels.engine.verification import differing
from sta_kernels.errors import InputError


@contextlib.contextmanager
def making(folder: Path) -> Iterator[None]:
    """Make the output folder; where nothing came of the merge, do not leave an empty one behind."""
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made a folder: {error.strerror or error}") from None
    try:
        yield
    except InputError:
        if not existed:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def check_place(folder: Path, inputs: Inputs) -> None:
    """Refuse to write into an input."""
    out = Path(os.path.realpath(folder))
    for path in (part for record in inputs.records for part in split_reference(record.path) or (record.path,)):
        source = Path(os.path.realpath(path))
        if out == source:
            raise InputError(f"{folder}: is the input {path}; choose another folder")
        if source.is_dir() and source in out.parents:
            raise InputError(f"{folder}: lies in the input {path}; choose another folder")
    for file in inputs.files():
        if Path(os.path.realpath(file)).parent == out:
            raise InputError(f"{folder}: holds the input {file}; choose another folder")


def finished_merge(folder: Path, plan: Plan) -> Manifest | None:
    """The manifest of this very merge, where it stands finished, every file as it was written: all are read.

    Raises:
        RunError: a file cannot be read.
    """
    manifest = read_manifest(folder)
    if manifest is None or manifest.identity != plan.identity or not is_whole(folder, manifest.files):
        return None
    if differing(folder, manifest.files):
        return None
    records = read_journal(folder / JOURNAL_NAME)
    if records is not None and records.identity == plan.identity:  # killed between the manifest and the journal's end
        (folder / JOURNAL_NAME).unlink()
    return replace(manifest, already_finished=True)


def refusal(folder: Path, plan: Plan, records: Records | None) -> str | None:
    """Why a folder, with the journal it holds, cannot take this merge unless it may be overwritten."""
    if records is not None and records.identity == plan.identity:
        return None
    manifest = read_manifest(folder)
    if records is not None:
        held = "holds an unfinished merge of another recipe, or of inputs that have changed"
    elif manifest is not None and manifest.identity != plan.identity:
        held = "holds a finished merge of another recipe, or of inputs that have changed"
    elif manifest is not None:
        held = "holds this merge, but its files have changed since; `sta-kernels verify` says which"
    elif any(not is_own_rest(path.name) for path in folder.iterdir()):
        held = "is not empty"
    else:
        return None
    return f"{folder}: {held}; choose another folder, or replace what it holds with --overwrite (overwrite=True)"


def outlook(folder: Path, plan: Plan, overwrite: bool) -> Iterator[str]:
    """What a plan's reader should know of the output folder as it stands."""
    if not folder.is_dir():
        if folder.exists():
            yield f"the merge would be refused: {folder}: is not a folder"
        return
    records = read_journal(folder / JOURNAL_NAME)
    if records is not None and records.identity == plan.identity:
        yield f"{folder}: holds this merge, unfinished; it would be continued"
    elif not overwrite:
        manifest = read_manifest(folder)
        if manifest is not None and manifest.identity == plan.identity and is_whole(folder, manifest.files):
            yield f"{folder}: holds this merge already; there is nothing to do but to read it and compare its digests"
            return
        problem = refusal(folder, plan, records)
        if problem is not None:
            yield f"the merge would be refused: {problem}"
