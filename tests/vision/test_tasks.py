"""Data as torchvision reads it from disk: each task, its two sides, its classes, and what is said where it lacks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import vision_cases as cases
from PIL import Image

from sta_kernels import InputError, RunError
from sta_kernels.vision import TASKS, Prompts, open_split
from sta_kernels.vision.prompts import SIGNS


def write_eurosat(root: Path) -> None:
    cases.class_folders(root / "eurosat" / "2750", ("AnnualCrop", "River"), 5)


def write_resisc45(root: Path) -> None:
    cases.class_folders(root / "resisc45", ("airplane", "sea_ice"), 5)


WRITERS = {
    "mnist": (cases.write_mnist, 20, 10, "0", 10),
    "cars": (cases.write_cars, 4, 4, "AM General Hummer SUV 2000", 2),
    "svhn": (cases.write_svhn, 10, 5, "0", 10),
    "gtsrb": (cases.write_gtsrb, 6, 3, "20 km/h speed limit", 43),
    "dtd": (cases.write_dtd, 4, 4, "banded", 2),
    "eurosat": (write_eurosat, 8, 2, "annual crop land", 2),
    "resisc45": (write_resisc45, 8, 2, "airplane", 2),
    "sun397": (cases.write_sun397, 8, 2, "abbey", 2),
    "imagenet": (cases.write_imagenet, 4, 4, "tench", 1000),
}


@pytest.mark.parametrize("task", WRITERS)
def test_both_sides(task: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    write, train, test, first, classes = WRITERS[task]
    write(folder, monkeypatch) if task == "svhn" else write(folder)
    sides = [open_split(task, folder, train=side) for side in (True, False)]
    assert [len(side) for side in sides] == [train, test]
    for side in sides:
        image, label = side.data[0]
        assert isinstance(image, Image.Image)
        assert 0 <= int(label) < len(side.prompts.classes) == classes
        assert side.prompts.classes[0] == first
        assert side.prompts.templates


def test_every_task_is_tested():
    assert set(WRITERS) | {"folder"} == set(TASKS)


def test_names_as_words(folder: Path):
    cases.write_sun397(folder)
    assert open_split("sun397", folder, train=True).prompts.classes == ["abbey", "apartment building outdoor"]
    assert len(SIGNS) == len(set(SIGNS)) == 43
    assert (SIGNS[14], SIGNS[17], SIGNS[40]) == ("stop", "no entry", "roundabout")


def test_imagenets_prompts_are_open_clips(folder: Path):
    import open_clip

    cases.write_imagenet(folder)
    prompts = open_split("imagenet", folder, train=False).prompts
    assert prompts == Prompts(list(open_clip.IMAGENET_CLASSNAMES), open_clip.OPENAI_IMAGENET_TEMPLATES)


@pytest.mark.parametrize("task", [task for task in TASKS if task != "folder"])
def test_what_is_missing(task: str, folder: Path):
    with pytest.raises(InputError) as caught:
        open_split(task, folder, train=True)
    text = str(caught.value)
    assert text.startswith(f"{TASKS[task].title}: nothing to read in {folder}")
    assert TASKS[task].expects in text
    assert ("--allow-download" in text) == TASKS[task].fetched
    with pytest.raises(InputError, match="no such folder"):
        open_split(task, folder / "absent", train=True)
    assert not (folder / "absent").exists()


def test_nothing_is_fetched_without_permission(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from torchvision.datasets import MNIST

    def fetch(self: object) -> None:
        raise RuntimeError("the server is away")

    monkeypatch.setattr(MNIST, "download", fetch)
    with pytest.raises(InputError, match="nothing to read"):
        open_split("mnist", folder, train=True)
    with pytest.raises(RunError, match="MNIST: the server is away"):
        open_split("mnist", folder / "new", train=True, download=True)


def test_where_is_it():
    with pytest.raises(InputError, match=r"--data\), or mnist=PATH"):
        open_split("mnist", None, train=True)
    with pytest.raises(InputError, match="data set 'cifar' is unknown; known are mnist, cars"):
        open_split("cifar", None, train=True)
    with pytest.raises(InputError, match="say where, folder=PATH"):
        open_split("folder", None, train=True)


def test_scipy_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"SVHN: scipy is needed .* pip install '.\[clip\]' in a clone"):
        open_split("svhn", folder, train=True)


@pytest.mark.parametrize("name", ["folder", "resisc45"])
@pytest.mark.parametrize("other", ["test", "val"])
def test_folders_with_sides(name: str, other: str, folder: Path):
    cases.class_folders(folder / "train", ("cat", "dog"), 3)
    cases.class_folders(folder / other, ("cat", "dog"), 2)
    assert len(open_split(f"{name}={folder}", None, train=True)) == 6
    assert len(open_split(f"{name}={folder}", None, train=False)) == 4


def test_a_folder_with_one_side(folder: Path):
    cases.class_folders(folder / "train", ("cat", "dog"), 3)
    with pytest.raises(InputError, match="holds no test and no val"):
        open_split(f"folder={folder}", None, train=False)


@pytest.mark.parametrize("train", [True, False])
def test_sides_of_other_classes_are_refused(train: bool, folder: Path):
    """Numbered by themselves, ``dog`` would be 2 on one side and 1 on the other."""
    cases.class_folders(folder / "train", ("cat", "cow", "dog"), 3)
    cases.class_folders(folder / "val", ("cat", "dog", "emu"), 2)
    with pytest.raises(InputError) as caught:
        open_split(f"folder={folder}", None, train=train)
    text = str(caught.value)
    assert f"{folder / 'train'} alone has cow" in text
    assert f"{folder / 'val'} alone has emu" in text
    (folder / "val" / "emu").rename(folder / "val" / "cow")
    splits = [open_split(f"folder={folder}", None, train=side) for side in (True, False)]
    assert splits[0].prompts == splits[1].prompts


def test_a_folder_in_one_piece_is_divided_without_overlap(folder: Path):
    cases.class_folders(folder, ("cat", "dog"), 10)
    sides = [open_split(f"folder={folder}", None, train=side) for side in (True, False)]
    seen = [{image.tobytes() for image, _ in side.data} for side in sides]
    assert [len(each) for each in seen] == [16, 4]
    assert not seen[0] & seen[1]
    again = open_split(f"folder={folder}", None, train=False)
    assert {image.tobytes() for image, _ in again.data} == seen[1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("{}", "or one of them"),
        ('{"class": ["a"]}', "or one of them"),
        ('{"classes": "ab"}', "classes: expected a list of texts"),
        ('{"classes": ["a"]}', "1 classes, and the data has 2"),
        ('{"templates": ["a photo"]}', "the template 'a photo': expected one {}"),
        ('{"templates": ["{} {b}"]}', "expected one {}"),
    ],
)
def test_prompts_that_are_none(content: str | None, reason: str, folder: Path):
    if content is not None:
        (folder / "p.json").write_text(content)
    with pytest.raises(InputError, match=reason):
        Prompts(["a", "b"], ["{}"]).replaced(folder / "p.json")


def test_prompts_from_a_file(folder: Path):
    own = Prompts(["a", "b"], ["{}"])
    assert own.replaced(None) is own
    (folder / "p.json").write_text(json.dumps({"classes": ["c", "d"]}))
    assert own.replaced(folder / "p.json") == Prompts(["c", "d"], ["{}"])
    (folder / "p.json").write_text(json.dumps({"templates": ["a {}"]}))
    assert own.replaced(folder / "p.json") == Prompts(["a", "b"], ["a {}"])
