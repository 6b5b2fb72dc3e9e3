"""Chat templates that the models of a merge have, beside their tokenizers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sta_kernels.checkpoint.header import MAX_HEADER

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_KEY = "chat_template"
WITH_TEMPLATE = ("tokenizer_config.json", "chat_template.json")
"""Files that hold one under its key."""


def own_template(files: Iterable[Path]) -> str | None:
    """The template among a model's side files: of the file that is nothing else, else under the key of another."""
    by_name = {file.name: file for file in files}
    if TEMPLATE_FILE in by_name:
        try:
            return _content(by_name[TEMPLATE_FILE]).decode("utf-8").strip() or None
        except (OSError, ValueError):
            return None
    for name in WITH_TEMPLATE:
        found = (read_json(by_name[name]) or {}).get(TEMPLATE_KEY) if name in by_name else None
        if isinstance(found, list):  # several, each with a name
            named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
            found = named.get("default")
        if isinstance(found, str) and found.strip():
            return found.strip()
    return None


def most_common(models: Iterable[Iterable[Path]]) -> tuple[str | None, int, int]:
    """The template that most models have, the first of several; how many have it, and how many have any.

    Args:
        models: side files of each.
    """
    found = [template for template in map(own_template, models) if template is not None]
    counts = Counter(found)
    template = max(counts, key=lambda each: counts[each], default=None)
    return template, 0 if template is None else counts[template], len(found)


def read_json(file: Path) -> dict[str, Any] | None:
    """The mapping that a file holds; None where it holds none, or nothing that anybody would take for one."""
    try:
        content = json.loads(_content(file))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _content(file: Path) -> bytes:
    """Of a file that is parsed, ValueError where it is too large for that."""
    with file.open("rb") as stream:
        content = stream.read(MAX_HEADER + 1)
    if len(content) > MAX_HEADER:
        raise ValueError(f"more than {MAX_HEADER} bytes")
    return content
