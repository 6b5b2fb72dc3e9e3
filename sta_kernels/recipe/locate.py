"""Where a model named in a recipe lies: a folder or file, or a hub id in the local Hugging Face cache.

Nothing is ever downloaded, and no hub library is imported.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from sta_kernels.errors import InputError
from sta_kernels.recipe.document import Node

_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_LONGEST = 255
"""Of a hub id: file systems have no longer names."""
_REVISION = re.compile(r"[\w][\w./-]*")


def locate_model(node: Node) -> str:
    """Turn a model reference into an existing path.

    Args:
        node: a path relative to the working directory, or ``owner/name[@revision]``; with ``+`` and another of them,
            a model with a LoRA adapter.

    Returns:
        The path as written, ``~`` expanded, or the snapshot's folder in the hub cache; of a model with an adapter, the
        two with ``+`` between them.

    Raises:
        InputError: nothing is there.
    """
    reference = node.text()
    if not reference:
        node.fail("an empty name")
    path = os.path.expanduser(reference)
    if os.path.exists(path):
        return path
    if "+" in reference:
        return _locate_pair(node, reference)
    name, _, revision = reference.partition("@")
    if len(reference) < _LONGEST and _HUB_ID.fullmatch(name) and (not revision or _is_revision(revision)):
        snapshot = _snapshot(name, revision or "main")
        if snapshot is not None:
            return str(snapshot)
        advice = f"; fetch it first, for example with `hf download {name}`" if "/" in name else ""
        node.fail(
            f"{reference!r} is neither a file or folder under {os.getcwd()} nor a hub id in the local cache "
            f"{hub_cache()}{advice}"
        )
    shown = reference if len(reference) < _LONGEST else f"{reference[:_LONGEST]}…"
    node.fail(f"{shown!r}: no such file or folder (relative paths start at {os.getcwd()})")


def _locate_pair(node: Node, reference: str) -> str:
    """A model and its adapter; a plus sign may be part of either name."""
    problem: InputError | None = None
    missing = ""
    for match in re.finditer(r"\+", reference):
        model, adapter = (part.strip() for part in (reference[: match.start()], reference[match.end() :]))
        try:
            found = locate_model(replace(node, value=model))
        except InputError as error:
            problem = problem or error
            continue
        try:
            return f"{found}+{locate_model(replace(node, value=adapter))}"
        except InputError:
            # What is here is the model; of several readings, the first such is most likely meant.
            missing = missing or adapter
    if missing:
        name = missing.partition("@")[0]
        is_hub_id = "/" in name and _HUB_ID.fullmatch(name)
        advice = f"; if it is a hub id, fetch it first, with `hf download {name}`" if is_hub_id else ""
        node.fail(f"LoRA adapter {missing!r} of {reference}: no such folder under {os.getcwd()}{advice}")
    if problem is None:
        node.fail("an empty name")
    raise problem


def locate_file(node: Node) -> str:
    """Check that an importance file or folder exists; InputError names key and line."""
    path = os.path.expanduser(node.text())
    if not path or not os.path.exists(path):
        node.fail(f"{path!r}: no such file or folder (relative paths start at {os.getcwd()})")
    return path


def hub_cache() -> Path:
    """The hub's cache folder, by the same environment variables as huggingface_hub."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser()
    home = os.environ.get("HF_HOME")
    if not home:
        home = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(home).expanduser() / "hub"


def _is_revision(text: str) -> bool:
    return _REVISION.fullmatch(text) is not None and ".." not in text.split("/")


def _snapshot(name: str, revision: str) -> Path | None:
    """Folder of a cached snapshot: a branch or tag is a file under ``refs`` that holds the commit."""
    repository = hub_cache() / ("models--" + name.replace("/", "--"))
    try:
        commit = (repository / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        commit = revision
    folder = repository / "snapshots" / commit
    return folder if _is_revision(commit) and folder.is_dir() else None
