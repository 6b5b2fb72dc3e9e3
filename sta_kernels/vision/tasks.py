"""The image tasks of the task-arithmetic papers, as torchvision reads them from disk."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sta_kernels.errors import InputError, RunError
from sta_kernels.vision import prompts
from sta_kernels.vision.extra import missing, need
from sta_kernels.vision.prompts import Prompts, Template, spoken

HELD_OUT = 0.2
"""Share of the pictures that is kept for testing where a data set comes in one piece."""
_SEED = 0  # of that division, which must be the same in every run: what is tested on was never trained on


@dataclass(frozen=True)
class Split:
    """One side of a task.

    Attributes:
        task: its name.
        data: a dataset of (PIL image, label), by position.
        prompts: what a zero-shot head is made of.
    """

    task: str
    data: Any
    prompts: Prompts

    def __len__(self) -> int:
        return len(self.data)


@dataclass(frozen=True)
class Task:
    """How a task is read.

    Attributes:
        title: as papers write it.
        expects: what has to be where, for people.
        read: (root, train?, download?) to a dataset of (PIL image, label).
        classes: of such a dataset, in words.
        templates: for the head.
        fetched: whether torchvision can download it.
        divided: whether it comes in parts for training and for testing.
        needs_scipy: for MATLAB's files.
    """

    title: str
    expects: str
    read: Callable[[Path, bool, bool], Any]
    classes: Callable[[Any], list[str]]
    templates: tuple[Template, ...] | None
    fetched: bool = True
    divided: bool = True
    needs_scipy: bool = False


def _datasets() -> Any:
    return need("torchvision").datasets


def _by_split(name: str, train: str = "train", test: str = "test", folder: str = "", **more: Any) -> Any:
    """Reader of a class of torchvision's with an argument ``split``."""

    def read(root: Path, training: bool, download: bool) -> Any:
        asked = more | ({"download": True} if download else {})
        return getattr(_datasets(), name)(str(root / folder), split=train if training else test, **asked)

    return read


def _mnist(root: Path, training: bool, download: bool) -> Any:
    return _datasets().MNIST(str(root), train=training, download=download)


def _whole(name: str) -> Any:
    """Reader of a class of torchvision's that makes no difference between training and testing."""
    return lambda root, training, download: getattr(_datasets(), name)(str(root), download=download)


def _folder(name: str) -> Any:
    """Reader of a folder of class folders, perhaps with ``train`` and ``test`` (or ``val``) above them."""

    def read(root: Path, training: bool, download: bool) -> Any:
        top = root / name if (root / name).is_dir() else root
        parts = ("train",) if training else ("test", "val")
        side, other = (
            next((top / part for part in names if (top / part).is_dir()), None)
            for names in (parts, ("test", "val") if training else ("train",))
        )
        if side is None and other is not None:
            raise FileNotFoundError(f"{top} holds no {' and no '.join(parts)}, but the other side")
        data = _datasets().ImageFolder(str(side or top))
        if side is not None and other is not None:
            _check_same_classes(side, data.classes, other)
        return data

    return read


def _check_same_classes(side: Path, classes: list[str], other: Path) -> None:
    """Refuse sides of other classes: torchvision numbers the classes of each by themselves."""
    here, there = set(classes), {entry.name for entry in other.iterdir() if entry.is_dir()}
    alone = {side: here - there, other: there - here}
    found = [f"{folder} alone has {', '.join(sorted(names))}" for folder, names in alone.items() if names]
    if found:
        raise InputError(
            f"{side} and {other} do not have the same classes, so that their labels mean different things: "
            f"{'; '.join(found)}; give both a folder for each class"
        )


def _own(data: Any) -> list[str]:
    return [spoken(name) for name in data.classes]


def _land(data: Any) -> list[str]:
    return [prompts.LAND.get(name, spoken(name)) for name in data.classes]


def _imagenet(data: Any) -> list[str]:
    return list(need("open_clip").IMAGENET_CLASSNAMES)


_PIECES = "one folder of pictures per class; either at once, or in train/ and test/ (or val/)"
TASKS = {
    "mnist": Task(
        "MNIST", "MNIST/raw/train-images-idx3-ubyte and its three companions",
        _mnist, lambda data: list(prompts.DIGITS), prompts.DIGIT,
    ),
    "cars": Task(
        "Cars", "stanford_cars/ with devkit/, cars_train/, cars_test/ and cars_test_annos_withlabels.mat",
        _by_split("StanfordCars"), _own, prompts.CAR, fetched=False, needs_scipy=True,
    ),
    "svhn": Task(
        "SVHN", "train_32x32.mat and test_32x32.mat",
        _by_split("SVHN"), lambda data: list(prompts.DIGITS), prompts.HOUSE_NUMBER, needs_scipy=True,
    ),
    "gtsrb": Task(
        "GTSRB", "gtsrb/GTSRB/Training/, gtsrb/GTSRB/Final_Test/Images/ and gtsrb/GT-final_test.csv",
        _by_split("GTSRB"), lambda data: list(prompts.SIGNS), prompts.SIGN,
    ),
    "dtd": Task("DTD", "dtd/dtd/images/ and dtd/dtd/labels/", _by_split("DTD"), _own, prompts.TEXTURE),
    "eurosat": Task(
        "EuroSAT", "eurosat/2750/ with one folder per class",
        _whole("EuroSAT"), _land, prompts.SATELLITE, divided=False,
    ),
    "resisc45": Task(
        "RESISC45", f"resisc45/ with {_PIECES}",
        _folder("resisc45"), _own, prompts.SATELLITE, fetched=False,
    ),
    "sun397": Task(
        "SUN397", "SUN397/ with ClassName.txt and the folders a/ to z/",
        _whole("SUN397"), _own, prompts.SCENE, divided=False,
    ),
    "imagenet": Task(
        "ImageNet", "imagenet/ with ILSVRC2012_devkit_t12.tar.gz, and train/ and val/ or their archives",
        _by_split("ImageNet", test="val", folder="imagenet"), _imagenet, None, fetched=False, needs_scipy=True,
    ),
    "folder": Task("folder", _PIECES, _folder("folder"), _own, prompts.PICTURE, fetched=False),
}  # fmt: skip
"""By the names that commands take. ``templates`` None: open_clip's own for ImageNet."""


def parse_task(text: str) -> tuple[str, Path | None]:
    """``NAME``, or ``NAME=PATH`` with where the data of this task is.

    Raises:
        InputError: an unknown name, or ``folder`` without a path.
    """
    name, _, path = text.partition("=")
    if name not in TASKS:
        raise InputError(f"data set {name!r} is unknown; known are {', '.join(TASKS)}, each as NAME or NAME=PATH")
    if name == "folder" and not path:
        raise InputError("data set folder: say where, folder=PATH: " + _PIECES)
    return name, Path(path) if path else None


def open_split(task: str, root: Path | None, *, train: bool, download: bool = False) -> Split:
    """One side of a task's data.

    Data that comes in one piece (EuroSAT, SUN397, folders without ``train`` and ``test``) is divided: a fifth, by a
    fixed draw, is for testing. This is not the papers' division.

    Args:
        task: ``NAME`` or ``NAME=PATH``; names are those of :data:`TASKS`.
        root: folder with the data of the tasks that come without a path.
        train: which side.
        download: let torchvision fetch what is missing; nothing is fetched otherwise.

    Raises:
        InputError: an unknown task; data that is not where torchvision looks for it; a folder whose sides have other
            classes; a library that it needs for this.
        RunError: the download failed.
    """
    name, own = parse_task(task)
    entry = TASKS[name]
    where = own or root
    if where is None:
        raise InputError(f"{entry.title}: where is the data? Give a folder (--data), or {name}=PATH")
    need("torchvision")
    if entry.needs_scipy and importlib.util.find_spec("scipy") is None:
        raise InputError(f"{entry.title}: {missing('scipy')}")
    fetched = download and entry.fetched
    if not fetched and not where.is_dir():
        raise _missing(entry, where, "no such folder")
    try:
        if fetched:
            where.mkdir(parents=True, exist_ok=True)
        data = entry.read(where, train, fetched)
        classes = entry.classes(data)
    except InputError:
        raise
    except (RuntimeError, OSError, ValueError) as error:
        if fetched:
            raise RunError(f"{entry.title}: {error}") from error
        raise _missing(entry, where, (str(error) or type(error).__name__).splitlines()[0]) from error
    templates = need("open_clip").OPENAI_IMAGENET_TEMPLATES if entry.templates is None else entry.templates
    if not entry.divided or _is_one_piece(data, where, name):
        data = _side(data, train)
    if not len(data):
        raise _missing(entry, where, "no pictures")
    return Split(name, data, Prompts(classes, templates))


def _missing(entry: Task, where: Path, reason: str) -> InputError:
    remedy = "--allow-download lets torchvision fetch it" if entry.fetched else "torchvision cannot download it"
    return InputError(f"{entry.title}: nothing to read in {where}: {reason}. Expected there: {entry.expects}; {remedy}")


def _is_one_piece(data: Any, where: Path, name: str) -> bool:
    """Whether a folder of class folders has no sides of its own."""
    if name not in ("resisc45", "folder"):
        return False
    return Path(data.root) in (where, where / name)


def _side(data: Any, train: bool) -> Any:
    """A part of the pictures, the same in every run."""
    import torch
    from torch.utils.data import Subset

    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(_SEED)).tolist()
    tested = max(1, round(HELD_OUT * len(data)))
    return Subset(data, order[tested:] if train else order[:tested])
