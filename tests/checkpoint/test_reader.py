"""Opening files and folders, and reading by position."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import save_file

from sta_kernels.checkpoint import open_checkpoint, positioned, source
from sta_kernels.errors import InputError, RunError

A = np.arange(12, dtype=np.float32).reshape(3, 4)
B = np.arange(5, dtype=np.int64)


def write_sharded(folder, stem="model", prefix=""):
    """Two shards and their index; returns the index's table."""
    first, second = (f"{stem}-0000{i}-of-00002.safetensors" for i in (1, 2))
    save_file({prefix + "a": A}, folder / first, {"format": "pt", "shard": "1"})
    save_file({prefix + "b": B}, folder / second, {"format": "pt", "shard": "2"})
    table = {"metadata": {"total_size": 88}, "weight_map": {prefix + "b": second, prefix + "a": first}}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(table))
    return table


def read(checkpoint, name):
    """All bytes of a tensor."""
    data = bytearray(checkpoint.find(name).nbytes)
    checkpoint.read_into(name, 0, data)
    return bytes(data)


def test_sharded(tmp_path):
    write_sharded(tmp_path)
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        with open_checkpoint(path) as checkpoint:
            assert list(checkpoint.entries) == ["a", "b"]
            assert read(checkpoint, "a") == A.tobytes()
            assert read(checkpoint, "b") == B.tobytes()
            assert checkpoint.entries["b"].file.name == "model-00002-of-00002.safetensors"
            assert checkpoint.metadata == {"format": "pt"}  # the shards differ on the other key
            assert [file.name for file in checkpoint.files] == sorted(os.listdir(tmp_path))


def test_wrapping_goes_only_where_all_shards_carry_it(tmp_path):
    write_sharded(tmp_path, prefix="module.")
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.entries) == ["a", "b"]
        assert read(checkpoint, "b") == B.tobytes()
    save_file({"head": A}, tmp_path / "extra.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    table["weight_map"]["head"] = "extra.safetensors"
    index.write_text(json.dumps(table))
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.entries) == ["head", "module.a", "module.b"]


@pytest.mark.parametrize(
    ("present", "chosen"),
    [
        (["model.safetensors", "other.safetensors"], "model.safetensors"),
        (["model.safetensors", "model.safetensors.index.json"], "model.safetensors"),
        (["open_clip.safetensors", "importance.safetensors"], "open_clip.safetensors"),
        (
            ["importance-00001-of-00002.safetensors", "x.safetensors", "importance.safetensors.index.json"],
            "x.safetensors",
        ),
        (["adapter.safetensors", "config.json", "tokenizer.json"], "adapter.safetensors"),
    ],
)
def test_folder_chooses(tmp_path, present, chosen):
    for name in present:
        if name.endswith(".safetensors"):
            save_file({"a": A}, tmp_path / name)
        else:
            (tmp_path / name).write_text("{}")
    with open_checkpoint(tmp_path) as checkpoint:
        assert [file.name for file in checkpoint.files] == [chosen]


def test_folder_chooses_an_index_of_another_name(tmp_path):
    write_sharded(tmp_path, stem="diffusion_pytorch_model")
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.entries) == ["a", "b"]


def test_importance_stands_beside_the_model(tmp_path):
    write_sharded(tmp_path, stem="importance")
    save_file({"c": A}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as model, open_checkpoint(tmp_path, stem="importance") as importance:
        assert list(model.entries) == ["c"]
        assert list(importance.entries) == ["a", "b"]


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ([], "holds no model.safetensors"),
        (["importance.safetensors", "config.json"], "holds no model.safetensors"),
        (["a.safetensors", "b.safetensors"], "several files could be the model: a.safetensors, b.safetensors"),
        (["a.pt", "b.bin"], "several files could be the model: a.pt, b.bin"),
        (["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"], "holds no model.safetensors"),
        (["adapter_config.json", "adapter_model.safetensors"], "a LoRA adapter; name it behind its model, as MODEL"),
    ],
)
def test_folder_without_a_choice(tmp_path, present, message):
    for name in present:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=message):
        open_checkpoint(tmp_path)


def test_what_training_leaves_behind_is_no_model(tmp_path):
    save_file({"a": A}, tmp_path / "weights.safetensors")
    for name in ("optimizer.safetensors", "adapter_model.safetensors", "adapter_config.json", "training_args.bin"):
        (tmp_path / name).write_bytes(b"")
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.entries) == ["a"]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_git_lfs_pointer(tmp_path, name):
    (tmp_path / name).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n")
    with pytest.raises(InputError, match=r"a Git LFS pointer .*git lfs pull"):
        open_checkpoint(tmp_path)


def test_no_such_path(tmp_path):
    for name in ("absent", "absent.safetensors", "absent.pt", "absent.safetensors.index.json"):
        with pytest.raises(InputError, match=f"{name}: no such file"):
            open_checkpoint(tmp_path / name)


def test_unknown_suffix(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"expected \.safetensors"):
        open_checkpoint(tmp_path / "model.gguf")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_not_a_regular_file(tmp_path, kind):
    path = tmp_path / "model.safetensors"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(InputError, match="not a regular file"):
        open_checkpoint(tmp_path)


def change_index(folder, change):
    table = write_sharded(folder)
    change(table["weight_map"])
    (folder / "model.safetensors.index.json").write_text(json.dumps(table))


@pytest.mark.parametrize(
    "shard", ["../model.safetensors", "/etc/passwd", "..", ".", "", "sub/x", "a\\b", "C:x", "a\nb", 7]
)
def test_index_names_anything_but_a_plain_file(tmp_path, shard):
    change_index(tmp_path, lambda weights: weights.update(a=shard))
    with pytest.raises(InputError, match=r"weight_map names .* no plain file name"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.update(c="absent.safetensors"), "absent.safetensors: no such file"),
        (lambda weights: weights.update(c=weights["a"]), "places 'c' in .*00001.*, but no shard holds it"),
        (lambda weights: weights.update(a=weights["b"], b=weights["a"]), "but it is in"),
        (lambda weights: weights.pop("b"), "no shard|does not list"),
        (lambda weights: weights.clear(), "weight_map must map"),
        (lambda weights: weights.update(c="notes.txt"), r"notes.txt: expected \.safetensors"),
    ],
)
def test_index_tells_another_story(tmp_path, change, message):
    (tmp_path / "notes.txt").write_text("")
    change_index(tmp_path, change)
    if message.startswith("no shard"):  # the shard is then not opened at all: its tensors are not of this model
        with open_checkpoint(tmp_path) as checkpoint:
            assert list(checkpoint.entries) == ["a"]
        return
    with pytest.raises(InputError, match=message):
        open_checkpoint(tmp_path)


def test_shards_that_hold_more_than_the_index_lists(tmp_path):
    table = write_sharded(tmp_path)
    save_file({"a": A, "extra": A}, tmp_path / table["weight_map"]["a"])
    with pytest.raises(InputError, match="does not list 'extra', which model-00001"):
        open_checkpoint(tmp_path)
    save_file({"a": A, "b": B}, tmp_path / table["weight_map"]["a"])
    with pytest.raises(InputError, match="holds 'b', and so does model-00001"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"{}", "weight_map must map"),
        (b'{"weight_map": []}', "weight_map must map"),
        (b'{"weight_map": {"a": "x"}, "weight_map": {}}', "stands there twice"),
        (b'{"weight_map": {"a": "x", "a": "y"}}', "'a' stands there twice"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b'{"\xff": 1}', "not UTF-8"),
    ],
)
def test_malformed_index(tmp_path, text, message):
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(text)
    with pytest.raises(InputError, match=f"index.json: .*{message}"):
        open_checkpoint(tmp_path)


def test_index_too_large_is_not_read(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.touch()
    os.truncate(index, 100_000_001)
    with pytest.raises(InputError, match="exceeds 100000000"):
        open_checkpoint(tmp_path)


def hub_cache(root):
    """A hub cache's repository: files are links to blobs."""
    snapshot = root / "models--org--name" / "snapshots" / "0123abcd"
    blobs = root / "models--org--name" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    return snapshot, blobs


def test_links_of_a_hub_cache_are_followed(tmp_path):
    snapshot, blobs = hub_cache(tmp_path)
    for i, path in enumerate(write_files(tmp_path / "plain")):
        path.rename(blobs / str(i))
        (snapshot / path.name).symlink_to(f"../../blobs/{i}")
    for folder in (snapshot, linked(snapshot, tmp_path / "alias")):
        with open_checkpoint(folder) as checkpoint:
            assert read(checkpoint, "b") == B.tobytes()
            assert [file.name for file in checkpoint.side_files()] == ["config.json"]


def write_files(folder):
    folder.mkdir()
    write_sharded(folder)
    (folder / "config.json").write_text("{}")
    return sorted(folder.iterdir())


def linked(target, path):
    path.symlink_to(target)
    return path


@pytest.mark.parametrize("target", ["../../refs/main", "../ffff/x", "../../../models--other/blobs/0", "../../../x"])
def test_links_of_a_hub_cache_lead_to_its_own_blobs_only(tmp_path, target):
    snapshot, _ = hub_cache(tmp_path)
    file = snapshot / target
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"a": A}, file)
    linked(target, snapshot / "model.safetensors")
    with pytest.raises(InputError, match="leads outside its folder"):
        open_checkpoint(snapshot)


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json"])
def test_links_that_lead_elsewhere_are_refused(tmp_path, name):
    folder, secret = tmp_path / "model", tmp_path / "secret"
    write_files(folder)
    (folder / name).rename(secret)
    (folder / name).symlink_to(secret)
    with pytest.raises(InputError, match=f"{name}: leads outside its folder"), open_checkpoint(folder) as checkpoint:
        checkpoint.side_files()


def test_single_file_that_leads_elsewhere_is_refused(tmp_path):
    folder, secret = tmp_path / "model", tmp_path / "secret.safetensors"
    folder.mkdir()
    save_file({"a": A}, secret)
    link = linked(secret, folder / "model.safetensors")
    with pytest.raises(InputError, match="leads outside its folder"):
        open_checkpoint(folder)
    with open_checkpoint(link) as checkpoint:  # whoever names the link itself means it
        assert read(checkpoint, "a") == A.tobytes()


@pytest.mark.parametrize("target", ["model.safetensors", "absent"])
def test_link_to_itself_or_to_nothing(tmp_path, target):
    linked(target, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"no such file|cannot be followed"):
        open_checkpoint(tmp_path)


def test_link_within_the_folder_is_followed(tmp_path):
    save_file({"a": A}, tmp_path / "v2.safetensors")
    linked("v2.safetensors", tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        assert read(checkpoint, "a") == A.tobytes()


def test_side_files(tmp_path):
    write_sharded(tmp_path)
    kept = ["config.json", "merges.txt", "modeling_x.py", "tokenizer.json", "tokenizer.model"]
    left = [".gitattributes", "importance.safetensors", "model.onnx", "optimizer.pt", "pytorch_model.bin.index.json"]
    for name in kept + left:
        (tmp_path / name).write_text("")
    (tmp_path / "onnx").mkdir()
    with open_checkpoint(tmp_path) as checkpoint:
        assert [file.name for file in checkpoint.side_files()] == kept
    with open_checkpoint(tmp_path / "model-00001-of-00002.safetensors") as checkpoint:
        assert checkpoint.side_files() == []
    (tmp_path / "a\x1b[2Jb").write_text("")
    with open_checkpoint(tmp_path) as checkpoint, pytest.raises(InputError, match=r"'a\\x1b\[2Jb' holds unprintable"):
        checkpoint.side_files()


@pytest.fixture
def bare(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": A, "empty": np.zeros((0, 3), np.float32)}, path)
    return path


def test_every_range(bare):
    data = A.tobytes()
    with open_checkpoint(bare) as checkpoint:
        for start in range(len(data) + 1):
            for stop in range(start, len(data) + 1):
                view = bytearray(stop - start)
                checkpoint.read_into("a", start, view)
                assert view == data[start:stop]
        checkpoint.read_into("empty", 0, np.empty((0, 3), np.float32))


@pytest.mark.parametrize(("start", "length"), [(-1, 4), (0, 49), (48, 1), (49, 0)])
def test_range_outside_the_tensor(bare, start, length):
    with open_checkpoint(bare) as checkpoint, pytest.raises(ValueError, match="of a tensor of 48"):
        checkpoint.read_into("a", start, bytearray(length))


def test_unknown_name(bare):
    with open_checkpoint(bare) as checkpoint:
        assert checkpoint.find("b") is None
        with pytest.raises(KeyError):
            checkpoint.read_into("b", 0, bytearray(1))


def test_reads_of_many_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_kept", threading.BoundedSemaphore(1))  # the second shard is opened for each read
    rng = np.random.default_rng(0)
    tensors = [rng.integers(0, 256, 1 << 16, np.uint8) for _ in range(2)]
    for i, tensor in enumerate(tensors):
        save_file({f"t{i}": tensor}, tmp_path / f"{i}.safetensors")
    index = {"weight_map": {f"t{i}": f"{i}.safetensors" for i in range(2)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))

    with open_checkpoint(tmp_path) as checkpoint, ThreadPoolExecutor(8) as pool:

        def matches(seed):
            start, stop = sorted(np.random.default_rng(seed).integers(0, 1 << 16, 2))
            view = np.empty(stop - start, np.uint8)
            checkpoint.read_into(f"t{seed % 2}", int(start), view)
            return np.array_equal(view, tensors[seed % 2][start:stop])

        assert all(pool.map(matches, range(400)))


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_descriptors_beyond_the_limit_are_not_kept(bare, monkeypatch):
    monkeypatch.setattr(source, "_kept", threading.Semaphore(0))
    before = descriptors()
    with open_checkpoint(bare) as checkpoint:
        assert read(checkpoint, "a") == A.tobytes()
        assert descriptors() == before


def test_descriptors_are_given_back(bare, monkeypatch):
    monkeypatch.setattr(source, "_kept", threading.BoundedSemaphore(1))
    before = descriptors()
    for _ in range(3):
        with open_checkpoint(bare) as checkpoint:
            assert descriptors() == before  # a plan holds none
            checkpoint.read_into("a", 0, bytearray(4))
            assert descriptors() == before + 1
        assert descriptors() == before


@pytest.mark.parametrize("opened", [False, True], ids=["before the first read", "between reads"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: os.truncate(path, os.path.getsize(path) - 20), "20 bytes short; was it truncated|changed while"),
        (lambda path: os.utime(path, ns=(1, 1)), "changed while it was in use"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "changed while it was in use"),
    ],
    ids=["truncated", "touched", "grown"],
)
def test_file_that_changes_while_it_is_read(bare, opened, change, message):
    with open_checkpoint(bare) as checkpoint:
        if opened:
            checkpoint.read_into("a", 0, bytearray(4))
        change(bare)
        with pytest.raises(RunError, match=f"x.safetensors: .*({message})"):
            checkpoint.read_into("a", 0, bytearray(48))
        with pytest.raises(RunError, match="changed while"):
            checkpoint.check_unchanged()


def test_file_that_vanishes(bare):
    with open_checkpoint(bare) as checkpoint:
        checkpoint.check_unchanged()
        bare.unlink()
        for attempt in (checkpoint.check_unchanged, lambda: checkpoint.read_into("a", 0, bytearray(48))):
            with pytest.raises(RunError, match="no such file, and there was one"):
                attempt()


def test_fingerprint(bare):
    with open_checkpoint(bare) as checkpoint:
        status = bare.stat()
        assert checkpoint.fingerprint() == [(bare, status.st_size, status.st_mtime_ns)]


def test_short_reads_are_continued(bare, monkeypatch):
    calls = []

    def short(fd, view, offset):
        calls.append(offset)
        return os.preadv(fd, [view[:5]], offset)

    with open_checkpoint(bare) as checkpoint:
        monkeypatch.setattr(positioned, "_pread", short)
        assert read(checkpoint, "a") == A.tobytes()
    assert len(calls) == 10


def test_read_errors_name_file_and_offset(bare, monkeypatch):
    def broken(fd, view, offset):
        raise OSError(5, "Input/output error")

    with open_checkpoint(bare) as checkpoint:
        start = checkpoint.entries["a"].offset
        monkeypatch.setattr(positioned, "_pread", broken)
        with pytest.raises(RunError, match=f"x.safetensors: read at byte {start + 8} failed: Input/output error"):
            checkpoint.read_into("a", 8, bytearray(4))


def test_systems_without_positioned_reads(bare, monkeypatch):
    monkeypatch.setattr(positioned, "_pread", positioned._seek_read)
    with open_checkpoint(bare) as checkpoint:
        assert read(checkpoint, "a") == A.tobytes()


def test_no_torch(bare):
    code = (
        "import sys, sta_kernels.checkpoint as c\n"
        f"with c.open_checkpoint({str(bare)!r}) as k: k.read_into('a', 0, bytearray(48))\n"
        "heavy = {'torch', 'triton', 'transformers', 'safetensors', 'yaml'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
