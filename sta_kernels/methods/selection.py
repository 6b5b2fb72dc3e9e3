"""Which entries of a checkpoint are merged, which are copied, and how an entry is cut into segments.

Works on names, dtypes and shapes alone, so that state dicts in memory and files on disk follow the same rules.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Protocol

from sta_kernels.errors import InputError
from sta_kernels.methods.base import ModelData

MERGED_DTYPES = frozenset(("F32", "BF16", "F16", "F64"))
"""Dtypes that kernels read, by their safetensors names."""
COPIED_DTYPES = frozenset(("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"))
"""Dtypes of indices, counters and masks, which have no meaningful average."""
_IMPORTANCE = ModelData()
_BATCH_STATISTICS = frozenset(("running_mean", "running_var", "num_batches_tracked"))


class Entry(Protocol):
    """What is known of a tensor before it is read."""

    @property
    def dtype(self) -> str:
        """Name of the dtype in safetensors files, such as ``BF16``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes per dimension."""


@dataclass(frozen=True)
class Selection:
    """What becomes of every entry of the template, the checkpoint whose entries the result has.

    Attributes:
        merged: floating entries that the method computes, in the template's order.
        copied: integer and bool entries, and running statistics of batch normalisation.
        excluded: entries that a pattern of ``exclude`` matches; copied too.
        aliases: tied names and the entry that each stands for; computed once, tied in the result.
    """

    merged: tuple[str, ...]
    copied: tuple[str, ...]
    excluded: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def stored_name(self, entries: Mapping[str, Any], name: str) -> str | None:
        """The name under which a model stores an entry: its own or, where that is absent, one tied to it."""
        if name in entries:
            return name
        return next((alias for alias, first in self.aliases.items() if first == name and alias in entries), None)


def select(
    template: Mapping[str, Entry],
    models: Mapping[str, Mapping[str, Entry]],
    *,
    label: str = "base",
    exclude: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
) -> Selection:
    """Decide what becomes of every entry, and hold all models against the template.

    Args:
        template: entries of the base, or of whichever checkpoint the result takes its names from.
        models: entries of the other operands, by what errors call them.
        label: what errors call the template.
        exclude: glob patterns over names, case-sensitive; what they match is copied, and may differ or be missing.
        aliases: names in the template that are tied to an earlier one. Excluding one excludes all.

    Raises:
        InputError: a model lacks an entry that is merged, has one that the template lacks, or has it in another shape
            or in a dtype that no kernel reads; a pattern matches nothing.
    """
    aliases = dict(aliases or {})
    check_patterns("exclude", exclude, {*template, *(name for entries in models.values() for name in entries)})
    left_out = {aliases.get(name, name) for name in template if matches(name, exclude)}
    merged, copied, excluded = [], [], []
    for name, entry in template.items():
        if name in aliases:
            continue
        if name in left_out:
            excluded.append(name)
        elif entry.dtype in COPIED_DTYPES or name.rpartition(".")[2] in _BATCH_STATISTICS:
            copied.append(name)
        else:
            _check_dtype(label, name, entry)
            merged.append(name)
    selection = Selection(tuple(merged), tuple(copied), tuple(excluded), aliases)
    for model_label, entries in models.items():
        _check_model(selection, template, label, model_label, entries, exclude)
    return selection


def select_importances(
    selection: Selection,
    template: Mapping[str, Entry],
    importances: Mapping[str, Mapping[str, Entry]],
    *,
    exclude: Sequence[str] = (),
    data: ModelData = _IMPORTANCE,
) -> tuple[str, ...]:
    """Hold importance files against the entries that are merged.

    Args:
        selection: of the checkpoint that the models share.
        template: its entries.
        importances: entries of each importance file, by what errors call it.
        exclude: patterns as in :func:`select`.
        data: what the method wants the files to hold.

    Returns:
        Merged entries for which no file has an importance. As a rule they are frozen where every model equals the base,
        and a mistake where one does not: only the values can tell.

    Raises:
        InputError: an importance that some files have is missing in another, is of another shape or of a dtype that no
            kernel reads, or belongs to no entry.
    """
    absent = []
    for name in selection.merged:
        stored = {label: selection.stored_name(entries, name) for label, entries in importances.items()}
        missing = [label for label, key in stored.items() if key is None]
        if len(missing) == len(stored):
            absent.append(name)
            continue
        if missing:
            raise InputError(f"{missing[0]}: no {data.name} for {name!r}; compute it again, or exclude the entry")
        for label, key in stored.items():
            if key is not None:
                _check_data(label, key, importances[label][key], template[name], data)
    for label, entries in importances.items():
        for name in entries:
            if name not in template and not matches(name, exclude):
                raise InputError(
                    f"{label}: {data.name} of {name!r}, but there is no such entry; exclude it to ignore it"
                )
    return tuple(absent)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the glob patterns matches the whole name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def check_patterns(key: str, patterns: Iterable[str], names: Iterable[str]) -> None:
    """Refuse a single string for a list, and patterns that match nothing, which are most often misspelt.

    Raises:
        InputError: naming the key and the pattern.
    """
    if isinstance(patterns, str):
        raise InputError(f"{key}: expected a list of patterns, got the string {patterns!r}")
    names = tuple(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(f"{key}: {pattern!r} matches no tensor")


@dataclass(frozen=True)
class Segment:
    """Consecutive rows of an entry that are normalised and ranked by themselves.

    Attributes:
        name: the entry's, followed by the rows where these are not all: ``attn.in_proj_weight[0:768]``.
        tensor: the entry's name.
        rows: first row and the one after the last; None for the whole entry, which may have no dimension at all.
        start: first element in the flattened entry.
        stop: element after the last.
        shape: sizes per dimension.
    """

    name: str
    tensor: str
    rows: tuple[int, int] | None
    start: int
    stop: int
    shape: tuple[int, ...]


def check_split(split: Mapping[str, int], merged: Iterable[str]) -> None:
    """Check the patterns and values of ``split`` against the entries that are merged.

    Raises:
        InputError: a number of parts that is no positive integer, or a pattern that matches no merged entry.
    """
    for pattern, parts in split.items():
        if not isinstance(parts, int) or isinstance(parts, bool) or parts < 1:
            raise InputError(f"split: {pattern!r}: expected a number of parts, 1 or more, got {parts!r}")
    check_patterns("split", split, merged)


def segments(name: str, shape: tuple[int, ...], split: Mapping[str, int]) -> tuple[Segment, ...]:
    """Cut an entry along its first dimension into the equal parts that the first matching pattern asks for.

    Raises:
        InputError: the first dimension does not divide; the message names tensor, shape and parts.
    """
    parts = next((parts for pattern, parts in split.items() if fnmatchcase(name, pattern)), 1)
    size = math.prod(shape)
    if parts == 1:
        return (Segment(name, name, None, 0, size, shape),)
    if not shape or shape[0] % parts:
        raise InputError(
            f"split: {name!r} of shape {list(shape)} does not divide into {parts} along its first dimension"
        )
    rows, elements = shape[0] // parts, size // parts
    return tuple(
        Segment(
            f"{name}[{i * rows}:{(i + 1) * rows}]",
            name,
            (i * rows, (i + 1) * rows),
            i * elements,
            (i + 1) * elements,
            (rows, *shape[1:]),
        )
        for i in range(parts)
    )


def _check_model(
    selection: Selection,
    template: Mapping[str, Entry],
    template_label: str,
    label: str,
    entries: Mapping[str, Entry],
    exclude: Sequence[str],
) -> None:
    stored = {name: selection.stored_name(entries, name) for name in selection.merged}
    missing = [name for name, key in stored.items() if key is None]
    if missing:
        raise InputError(f"{label}: no entry {_listed(missing)}, which {template_label} has; exclude it to copy it")
    for name, entry in entries.items():
        if name not in template and entry.dtype not in COPIED_DTYPES and not matches(name, exclude):
            raise InputError(f"{label}: {name!r} is not in {template_label}; exclude it to leave it out")
    differing = [
        name
        for name, key in stored.items()
        if key is not None and tuple(entries[key].shape) != tuple(template[name].shape)
    ]
    more = f" ({len(differing) - 4} more differ)" if len(differing) > 4 else ""
    advice = f"; to copy the base's, add `exclude: [{', '.join(differing[:4])}]`{more}"
    for name, key in stored.items():
        if key is not None:
            _check_same(label, key, entries[key], template_label, template[name], advice)


def _check_same(label: str, name: str, entry: Entry, other_label: str, other: Entry, advice: str = "") -> None:
    _check_dtype(label, name, entry)
    if tuple(entry.shape) != tuple(other.shape):
        raise InputError(
            f"{label}: {name!r} has shape {list(entry.shape)}, {other_label} has {list(other.shape)}{advice}"
        )


def _check_data(label: str, name: str, entry: Entry, parameter: Entry, data: ModelData) -> None:
    """An importance has the shape of its parameter, other data one that goes by it."""
    if data.elementwise:
        _check_same(label, name, entry, "its parameter", parameter)
        return
    _check_dtype(label, name, entry)
    wanted = data.shape(tuple(parameter.shape))
    if wanted is None or tuple(entry.shape) != wanted:
        expected = f"no {data.name}" if wanted is None else f"a {data.name} of shape {list(wanted)}"
        raise InputError(
            f"{label}: {name!r} has shape {list(entry.shape)}, but a parameter of shape {list(parameter.shape)} has "
            f"{expected}"
        )


def _check_dtype(label: str, name: str, entry: Entry) -> None:
    if entry.dtype not in MERGED_DTYPES:
        raise InputError(
            f"{label}: {name!r} is {entry.dtype}, which no kernel reads; convert it to float32, bfloat16, float16 or "
            "float64, or exclude it to copy it"
        )


def _listed(names: Sequence[str]) -> str:
    return repr(names[0]) if len(names) == 1 else f"{names[0]!r} (and {len(names) - 1} more)"
