"""Chat templates that the models of a merge have, beside their tokenizers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from sta_kernels.checkpoint.folder import read_json, read_small

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_KEY = "chat_template"
WITH_TEMPLATE = ("tokenizer_config.json", "chat_template.json")
"""Files that hold one under its key."""


def own_template(files: Iterable[Path]) -> str | None:
    """The template among a model's side files: of the file that is nothing else, else under the key of another."""
    by_name = {file.name: file for file in files}
    if TEMPLATE_FILE in by_name:
        try:
            return read_small(by_name[TEMPLATE_FILE], "a template")[0].decode("utf-8").strip() or None
        except ValueError:
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
