"""What the manifest of a merge says, in the shape that a reader asks for: by layer, by type, by task."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sta_kernels.engine import Manifest
from sta_kernels.errors import InputError
from sta_kernels.methods.groups import block_of
from sta_kernels.recipe import Recipe, document

OUTSIDE = "outside layers"
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass(frozen=True)
class Counted:
    """Some merged elements, and how many of them each model kept."""

    elements: int
    kept: tuple[int, ...]

    @property
    def rates(self) -> tuple[float, ...]:
        """Share per model."""
        return tuple(kept / self.elements if self.elements else 0.0 for kept in self.kept)


@dataclass(frozen=True)
class Names:
    """What the models are called.

    Attributes:
        full: as the recipe names them.
        short: for tables and pictures: the model's number, and the end of its path.
    """

    full: tuple[str, ...]
    short: tuple[str, ...]


def check(manifest: Manifest, where: Path) -> None:
    """Refuse a manifest whose records are not those of a merge.

    Raises:
        InputError: names the file and the record.
    """
    for what in ("recipe", "method", "tier", "identity", "version"):
        if not _is_text(getattr(manifest, what)):
            raise InputError(f"{where}: {what} is not that of a merge; merge again")
    records = {
        "tensors": (manifest.tensors, _is_tensor),
        "inputs": (manifest.inputs, _is_input),
        "notes": (manifest.notes, _is_text),
        "files": (_values(manifest.files), _is_file),
        "served_by": (_values(manifest.served_by), _is_text),
    }
    for what, (found, sound) in records.items():
        wrong = next((i for i, record in enumerate(found) if not sound(record)), None)
        if wrong is not None:
            raise InputError(f"{where}: {what}[{wrong}] is not what a merge records; merge again")
    if len({len(record["kept"]) for record in manifest.tensors if "kept" in record}) > 1:
        raise InputError(f"{where}: tensors differ in the number of models that kept entries; merge again")


def _is_text(value: Any) -> bool:
    """A manifest is UTF-8, which has no halves of surrogate pairs; JSON can write them."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_tensor(record: Any) -> bool:
    if not (isinstance(record, dict) and _is_text(record.get("name")) and _is_text(record.get("tensor"))):
        return False
    kept = record.get("kept", [0])
    counts = kept if isinstance(kept, list) and kept else [None]
    return all(map(_is_count, (record.get("elements"), record.get("unrouted", 0), *counts)))


def _is_input(record: Any) -> bool:
    files = record.get("files") if isinstance(record, dict) else None
    return isinstance(files, list) and all(_is_file(file) and _is_text(file.get("path")) for file in files)


def _is_file(record: Any) -> bool:
    return isinstance(record, dict) and _is_count(record.get("size")) and _is_text(record.get("digest"))


def _values(mapping: Any) -> Iterable[Any]:
    """Of a mapping; of anything else, something that is no record."""
    return mapping.values() if isinstance(mapping, dict) else (None,)


def names_of(manifest: Manifest) -> Names:
    """The models' names, in the order of the counters."""
    count = next((len(record["kept"]) for record in manifest.tensors if "kept" in record), None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they were given when the merge was made
            full = [spec.name for spec in Recipe.parse(manifest.recipe).models]
    except InputError:  # a model that is no longer there
        full = _listed(manifest.recipe)
    if count is not None and len(full) != count:
        full = [f"model {i + 1}" for i in range(count)]
    return Names(tuple(full), tuple(f"{i + 1} {name}" for i, name in enumerate(_ends(full))))


def _ends(paths: list[str]) -> list[str]:
    """As many last parts of paths as tell different ones apart."""
    parts = [path.rstrip("/").split("/") for path in paths]
    for count in range(1, max(map(len, parts), default=0)):
        ends = ["/".join(part[-count:]) for part in parts]
        if len(set(ends)) == len(set(paths)):
            return ends
    return paths


def _listed(text: str) -> list[str]:
    """Models in a recipe's text, in its order, without the base."""
    try:
        recipe = document.to_object(document.from_text(text, "recipe"))
    except InputError:
        return []
    found: dict[str, None] = {}

    def search(value: Any) -> None:
        for key, item in value.items() if isinstance(value, dict) else ():
            if key in ("models", "sources") and isinstance(item, list):
                found.update((entry["model"], None) for entry in item if _names_model(entry))
            elif key in ("slices", "modules"):
                for part in item.values() if isinstance(item, dict) else item if isinstance(item, list) else ():
                    search(part)

    search(recipe)
    base = recipe.get("base_model") if isinstance(recipe, dict) else None
    return [name for name in found if name != base]


def _names_model(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("model"), str)


def layer_of(name: str) -> str:
    """What stands before a layer's number, and the number; :data:`OUTSIDE` where there is none."""
    block = block_of(name)
    return OUTSIDE if block == name else block.rstrip(".")


def type_of(name: str) -> str:
    """A tensor's name without its layer; numbers in it, such as an expert's, are stars."""
    block = block_of(name)
    return _NUMBER.sub("*", name if block == name else name[len(block) :])


def counted(manifest: Manifest, key: Callable[[str], str]) -> dict[str, Counted]:
    """What was kept, summed over the tensors whose names have the same key; none where nothing was counted."""
    sums: dict[str, list[Any]] = {}
    for record in manifest.tensors:
        if "kept" in record:
            entry = sums.setdefault(key(record["name"]), [0, [0] * len(record["kept"])])
            entry[0] += record["elements"]
            entry[1] = [a + b for a, b in zip(entry[1], record["kept"], strict=True)]
    return {name: Counted(elements, tuple(kept)) for name, (elements, kept) in sums.items()}


def in_layers(names: Iterable[str]) -> list[str]:
    """Layers by their numbers, what is outside of any last."""
    return sorted(names, key=lambda name: (name == OUTSIDE, *_numbers(name)))


def _numbers(name: str) -> tuple[str, int]:
    stem, _, number = name.rpartition(".")
    return (stem, int(number)) if number.isdigit() else (name, -1)


def overlap_at_random(positions: Sequence[int]) -> float:
    """Overlap |A∩B|/|A∪B| of any two of N models where as many as were kept at each position are kept, whichever.

    Expected, of each position where k are kept, is ``k(k − 1)/N(N − 1)`` for both and ``k(2N − 1 − k)/N(N − 1)`` for
    either; the overlap is that of the sums over all positions.

    Args:
        positions: at index k of 0 to N, 2 or more, those where k are kept.
    """
    n_models = len(positions) - 1
    both = sum(count * k * (k - 1) for k, count in enumerate(positions))
    either = sum(count * k * (2 * n_models - 1 - k) for k, count in enumerate(positions))
    return both / either if either else 0.0


def file_records(inputs: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Every input file's record, by its path."""
    return {file["path"]: file for entry in inputs for file in entry["files"]}
