"""A recipe's YAML as a tree of marked values: every value knows its key and its line.

The loader is the safe one, and a file that is too large, too deep, or that expands through aliases without bound
is refused before it costs anything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from sta_kernels.errors import InputError

MAX_BYTES = 1 << 20
MAX_DEPTH = 16
MAX_VALUES = 20_000
"""Values after aliases are expanded."""

_MERGE_TAG = "tag:yaml.org,2002:merge"
_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


@dataclass(frozen=True)
class Node:
    """One value of a recipe.

    Attributes:
        value: None, bool, int, float, str, ``dict[str, Node]`` or ``list[Node]``.
        source: what to call the document in messages.
        path: how the value is reached, as ``models[1].parameters.weight``; empty for the whole document.
        line: where its key stands, from 1; None where the recipe was not text.
    """

    value: Any
    source: str
    path: str
    line: int | None

    @property
    def where(self) -> str:
        """Source, line and key, for a message; of the whole document, the source alone."""
        if not self.path:
            return self.source
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{place}: {self.path}"

    def fail(self, message: str) -> NoReturn:
        """Raise InputError that starts with the place."""
        raise InputError(f"{self.where}: {message}")

    def mapping(self) -> dict[str, Node]:
        """The entries, none for null; InputError for anything else."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            self.fail(f"expected a mapping of keys to values, not {self.described}")
        return self.value

    def sequence(self) -> list[Node]:
        """The items; InputError for anything but a list."""
        if not isinstance(self.value, list):
            self.fail(f"expected a list, not {self.described}")
        return self.value

    def text(self) -> str:
        """The string; InputError for anything else."""
        if not isinstance(self.value, str):
            self.fail(f"expected a string, not {self.described}")
        return self.value

    @property
    def described(self) -> str:
        """The value in words, for a message."""
        if isinstance(self.value, dict):
            return "a mapping"
        if isinstance(self.value, list):
            return "a list"
        return "nothing" if self.value is None else repr(self.value)


def from_text(text: str, source: str) -> Node:
    """Parse YAML.

    Args:
        text: one YAML document.
        source: what to call it in messages, such as the file's name.

    Returns:
        The document's root.

    Raises:
        InputError: no valid YAML, a key given twice, a tag that is no plain value, or beyond the limits above.
    """
    import yaml

    loader_class: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    if len(text) > MAX_BYTES:
        raise InputError(f"{source}: {len(text):,} characters; a recipe has at most {MAX_BYTES:,}")
    try:
        # The composer recurses per level, in C; events are a flat stream.
        _check_nesting(yaml.parse(text, loader_class), source)
        loader = loader_class(text)
        try:
            root = loader.get_single_node()
            return _Builder(loader, source).build(root, "", 1, 0)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = source if mark is None else f"{source}:{mark.line + 1}"
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise InputError(f"{place}: not valid YAML: {problem}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None


def from_object(value: Any, source: str, path: str = "") -> Node:
    """Wrap plain Python data (mappings, lists, scalars, paths), for recipes built in a program."""
    if isinstance(value, Mapping):
        entries = {str(key): from_object(item, source, _join(path, str(key))) for key, item in value.items()}
        return Node(entries, source, path, None)
    if isinstance(value, list | tuple):
        return Node([from_object(item, source, f"{path}[{i}]") for i, item in enumerate(value)], source, path, None)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value is None or isinstance(value, bool | int | float | str):
        return Node(value, source, path, None)
    raise InputError(f"{source}: {path}: expected a number, a string, a list or a mapping, not {type(value).__name__}")


def to_object(node: Node) -> Any:
    """Plain Python data again."""
    if isinstance(node.value, dict):
        return {key: to_object(item) for key, item in node.value.items()}
    if isinstance(node.value, list):
        return [to_object(item) for item in node.value]
    return node.value


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _check_nesting(events: Any, source: str) -> None:
    depth = 0
    for event in events:
        kind = type(event).__name__
        if kind in ("MappingStartEvent", "SequenceStartEvent"):
            depth += 1
            if depth > MAX_DEPTH:
                raise InputError(f"{source}:{event.start_mark.line + 1}: nested deeper than {MAX_DEPTH} levels")
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            depth -= 1


class _Builder:
    """Turns composed YAML nodes into marked values, counting what aliases expand to."""

    def __init__(self, loader: Any, source: str) -> None:
        self._loader = loader
        self._source = source
        self._count = 0

    def build(self, node: Any, path: str, line: int, depth: int) -> Node:
        if node is None:
            return Node(None, self._source, path, line)
        self._count += 1
        if self._count > MAX_VALUES or depth > MAX_DEPTH:
            raise InputError(
                f"{self._source}:{line}: aliases expand beyond {MAX_VALUES:,} values or {MAX_DEPTH} levels"
            )
        if node.id == "scalar":
            return Node(self._scalar(node, path, line), self._source, path, line)
        if node.tag not in _PLAIN_TAGS:
            raise InputError(f"{self._source}:{line}: {path}: the tag {node.tag} is not accepted")
        if node.id == "sequence":
            items = [self.build(n, f"{path}[{i}]", _line(n), depth + 1) for i, n in enumerate(node.value)]
            return Node(items, self._source, path, line)
        return Node(self._mapping(node, path, depth), self._source, path, line)

    def _scalar(self, node: Any, path: str, line: int) -> Any:
        try:
            value = self._loader.construct_object(node)
        except ValueError as error:
            raise InputError(f"{self._source}:{line}: {path}: {error}") from None
        # Dates and the like: in a recipe they are names of folders and revisions.
        return value if value is None or isinstance(value, bool | int | float | str) else node.value

    def _mapping(self, node: Any, path: str, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key_node, value_node in node.value:
            line = _line(key_node)
            if key_node.id != "scalar":
                raise InputError(f"{self._source}:{line}: {path or 'recipe'}: a key must be a plain word")
            if key_node.tag == _MERGE_TAG:
                for part in value_node.value if value_node.id == "sequence" else [value_node]:
                    # `<<`: entries given here win over merged ones, earlier merged ones over later ones.
                    merged = {**self.build(part, path, line, depth + 1).mapping(), **merged}
                continue
            key = str(key_node.value)
            if key in entries:
                raise InputError(
                    f"{self._source}:{line}: {_join(path, key)}: given twice, first in line {entries[key].line}"
                )
            entries[key] = self.build(value_node, _join(path, key), line, depth + 1)
        return {**merged, **entries}


def _line(node: Any) -> int:
    return node.start_mark.line + 1
