"""Hostile output folders: links in the way of what is written, records that lie."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence

from attacks.victim import SECRET, Attack, Victim

from sta_kernels.engine.journal import JOURNAL_NAME
from sta_kernels.engine.lock import LOCK_NAME
from sta_kernels.engine.output import MANIFEST_NAME


def untouched(victim: Victim) -> bool:
    return victim.secret.read_bytes() == SECRET


def trap(name: str, message: str, file: str, code: int, *options: str) -> Attack:
    """A link that waits in the output folder."""

    def plant(victim: Victim) -> Sequence[str]:
        victim.out.mkdir()
        (victim.out / file).symlink_to(victim.secret)
        return [*victim.command, *options]

    return Attack("output folder", name, plant, message, code, untouched)


def folder(name: str, message: str, prepare: Callable[[Victim], Sequence[str] | None], code: int = 2) -> Attack:
    """An output folder that was prepared."""
    return Attack("output folder", name, prepare, message, code, untouched)


def is_file(victim: Victim) -> None:
    victim.out.write_bytes(b"")


def is_input(victim: Victim) -> Sequence[str]:
    return ["merge", str(victim.recipe), str(victim.base), "--overwrite"]


def is_in_input(victim: Victim) -> Sequence[str]:
    return ["merge", str(victim.recipe), str(victim.base / "sub" / ".." / "new")]


def is_linked_input(victim: Victim) -> None:
    victim.out.symlink_to(victim.base)


def journal(content: bytes) -> Callable[[Victim], None]:
    """A journal of somebody else's."""

    def prepare(victim: Victim) -> None:
        victim.out.mkdir()
        (victim.out / JOURNAL_NAME).write_bytes(content)

    return prepare


def journal_pipe(victim: Victim) -> None:
    victim.out.mkdir()
    os.mkfifo(victim.out / JOURNAL_NAME)


def manifest(command: str, content: object) -> Callable[[Victim], Sequence[str]]:
    """A manifest of somebody else's."""

    def prepare(victim: Victim) -> Sequence[str]:
        victim.out.mkdir()
        text = content if isinstance(content, str) else json.dumps(content).replace("SECRET", str(victim.secret))
        (victim.out / MANIFEST_NAME).write_text(text)
        return victim.command if command == "merge" else [command, str(victim.out)]

    return prepare


WHOLE = {
    "format": 3, "version": "0", "identity": "0", "method": "sta", "tier": "A", "served_by": {}, "served_before": [],
    "recipe": "", "inputs": [], "files": {}, "tensors": [], "copied": [], "notes": [],
}  # fmt: skip
RECORD = {"size": len(SECRET), "digest": "0" * 32}
NO_MANIFEST = "not a manifest|cannot be read"

OUTPUTS = [
    trap("the journal is a link to a file of mine", "symbolic|link|cannot be", JOURNAL_NAME, 1),
    trap("the journal is a link, to be overwritten", "symbolic|link|cannot be", JOURNAL_NAME, 1, "--overwrite"),
    trap("the lock is a link to a file of mine", "symbolic|link|cannot be", LOCK_NAME, 1),
    trap("a shard's temporary name is a link", "tensors", ".model.safetensors.partial", 0, "--overwrite"),
    trap("the final name is a link", "tensors", "model.safetensors", 0, "--overwrite"),
    trap("the manifest is a link", "cannot be read|not a manifest|is not empty", MANIFEST_NAME, 2),
    folder("a file", "cannot be made a folder|is not a folder", is_file),
    folder("an input", "is the input", is_input),
    folder("in an input", "lies in the input", is_in_input),
    folder("a link to an input", "is the input", is_linked_input),
    folder("a journal of zeros", "tensors", journal(bytes(5000)), 0),
    folder("a journal as depth bomb", "tensors", journal(b'{"identity":' * 100_000 + b"\n"), 0),
    folder("a journal of another merge", "unfinished merge of another recipe", journal(b'{"identity":"0"}\n')),
    folder("a journal that is a pipe", "not a regular file", journal_pipe, 1),
    folder("a manifest as depth bomb", NO_MANIFEST + "|nested", manifest("merge", '{"format":' * 200_000)),
    folder("a manifest that is a list", "not a JSON object", manifest("merge", [])),
    folder("a manifest of wrong kinds", NO_MANIFEST, manifest("merge", {**WHOLE, "files": 3, "notes": 4})),
    folder("a manifest that describes other files", NO_MANIFEST,
           manifest("verify", {**WHOLE, "files": {"../private/secret.bin": RECORD}})),
    folder("a manifest that describes a file by its absolute path", NO_MANIFEST,
           manifest("verify", {**WHOLE, "files": {"SECRET": RECORD}})),
    folder("a manifest without sizes", NO_MANIFEST, manifest("verify", {**WHOLE, "files": {"a": {}}})),
    folder("a manifest with a control character", NO_MANIFEST,
           manifest("verify", {**WHOLE, "files": {"\x1b[2J": RECORD}})),
    folder("a manifest of files that are missing", "is missing",
           manifest("verify", {**WHOLE, "files": {"a": RECORD}}), 1),
]  # fmt: skip
