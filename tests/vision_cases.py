"""A small CLIP model, and pictures on disk in the forms that torchvision reads."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def small_spec(folder: Path, name: str = "sta-small", **more: Any) -> str:
    """A specification of a model of the file's own name."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps(CONFIG | more))
    return f"open_clip:{file}"


def state_of(spec: str, seed: int = 0) -> dict[str, Tensor]:
    """Random weights of a whole model."""
    from sta_kernels.vision import build

    torch.manual_seed(seed)
    return {name: tensor.clone() for name, tensor in build(spec).model.state_dict().items()}


def nudged(state: dict[str, Tensor], seed: int, size: float = 0.02) -> dict[str, Tensor]:
    """As if the image encoder had been trained further."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + size * torch.randn(tensor.shape, generator=generator) if name.startswith("visual.") else tensor
        for name, tensor in state.items()
    }


def picture(seed: int, side: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def save_pictures(folder: Path, count: int, seed: int = 0, suffix: str = ".png") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}{suffix}" for number in range(count)]
    for number, path in enumerate(paths):
        picture(1000 * seed + number).save(path)
    return paths


def class_folders(top: Path, names: tuple[str, ...], count: int = 4) -> None:
    for number, name in enumerate(names):
        save_pictures(top / name, count, number)


def write_mnist(root: Path, train: int = 20, test: int = 10) -> None:
    """Digits as the original files hold them."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for side, count in (("train", train), ("t10k", test)):
        draw = np.random.default_rng(count)
        images = draw.integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes((0, 0, 8, values.ndim)) + b"".join(size.to_bytes(4, "big") for size in values.shape)
            (folder / f"{side}-{kind}-ubyte").write_bytes(header + values.tobytes())


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files whose digests torchvision is told."""
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    known = dict(SVHN.split_list)
    for split, count in (("train", 10), ("test", 5)):
        file = root / f"{split}_32x32.mat"
        labels = np.arange(count)[:, None] % 10 + 1  # ten stands for zero
        savemat(file, {"X": np.zeros((32, 32, 3, count), np.uint8), "y": labels.astype(np.uint8)})
        known[split] = (known[split][0], file.name, hashlib.md5(file.read_bytes()).hexdigest())
    monkeypatch.setattr(SVHN, "split_list", known)


def write_cars(root: Path) -> None:
    from scipy.io import savemat

    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], dtype=object)
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": names})
    for side, where in (
        ("train", base / "devkit" / "cars_train_annos.mat"),
        ("test", base / "cars_test_annos_withlabels.mat"),
    ):
        paths = save_pictures(base / f"cars_{side}", 4, suffix=".jpg")
        rows = [(path.name, 1 + number % 2) for number, path in enumerate(paths)]
        savemat(where, {"annotations": np.array(rows, dtype=[("fname", object), ("class", object)])})


def write_gtsrb(root: Path) -> None:
    base = root / "gtsrb"
    for label in (0, 1, 2):
        save_pictures(base / "GTSRB" / "Training" / f"{label:05d}", 2, label, ".ppm")
    paths = save_pictures(base / "GTSRB" / "Final_Test" / "Images", 3, suffix=".ppm")
    rows = "".join(f"{path.name};{number}\n" for number, path in enumerate(paths))
    (base / "GT-final_test.csv").write_text("Filename;ClassId\n" + rows)


def write_dtd(root: Path) -> None:
    base = root / "dtd" / "dtd"
    names = ("banded", "polka-dotted")
    class_folders(base / "images", names)
    (base / "labels").mkdir()
    for split in ("train", "val", "test"):
        (base / "labels" / f"{split}1.txt").write_text("".join(f"{name}/{i}.png\n" for name in names for i in range(2)))


def write_sun397(root: Path) -> None:
    base = root / "SUN397"
    names = ("/a/abbey", "/a/apartment_building/outdoor")
    for name in names:
        save_pictures(base / name[1:], 5, suffix=".jpg")
        for path in (base / name[1:]).iterdir():
            path.rename(path.with_name(f"sun_{path.name}"))
    (base / "ClassName.txt").write_text("\n".join(names) + "\n")


def write_imagenet(root: Path) -> None:
    wnids = ("n01440764", "n01443537")
    for side in ("train", "val"):
        class_folders(root / "imagenet" / side, wnids, 2)
    meta = ({wnids[0]: ("tench", "Tinca tinca"), wnids[1]: ("goldfish",)}, list(wnids))
    torch.save(meta, root / "imagenet" / "meta.bin")
