"""PyTorch checkpoints: mapped, unpickled without code, tied tensors and views."""

from __future__ import annotations

import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from sta_kernels.checkpoint import open_checkpoint
from sta_kernels.checkpoint.torch_source import _CODES
from sta_kernels.errors import InputError, RunError


def saved(path, state, **options):
    torch.save(state, path, **options)
    return path


def raw(tensor):
    """C-order bytes of a tensor, by torch alone."""
    dense = torch.zeros(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
    return bytes(dense.reshape(-1).view(torch.uint8).numpy())


def read(checkpoint, name):
    data = bytearray(checkpoint.find(name).nbytes)
    checkpoint.read_into(name, 0, data)
    return bytes(data)


CUBE = torch.arange(4 * 5 * 6, dtype=torch.float32).reshape(4, 5, 6)
VIEWS = {
    "whole": CUBE,
    "transposed": CUBE.permute(2, 0, 1),
    "strided": CUBE[::2, 1:, ::3],
    "row": CUBE[1],
    "one of a stride": CUBE[3:, 0, 0],
    "column": CUBE[:, :, 3],
    "expanded": CUBE[0, 0, :1].expand(3, 4),
    "scalar": CUBE[1, 2, 3],
    "empty": CUBE[:0].transpose(0, 2),
}


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_every_range_of_a_view(tmp_path, name):
    view = VIEWS[name]
    expected = raw(view)
    with open_checkpoint(saved(tmp_path / "x.pt", {"base": CUBE, "view": view})) as checkpoint:
        held = checkpoint.find("view")
        assert (held.dtype, held.shape, held.nbytes) == ("F32", tuple(view.shape), len(expected))
        stops = range(0, len(expected) + 1, 4)
        for start in stops[:: max(1, len(stops) // 25)]:
            for stop in stops:
                if stop >= start:
                    data = bytearray(stop - start)
                    checkpoint.read_into("view", start, data)
                    assert data == expected[start:stop]


@pytest.mark.parametrize("code", [code for code in sorted(_CODES) if hasattr(torch, code)])
def test_every_dtype(tmp_path, code):
    dtype = getattr(torch, code)
    data = torch.arange(96, dtype=torch.uint8) % 2
    tensor = data.view(dtype).reshape(-1, 2)
    with open_checkpoint(saved(tmp_path / "x.pt", {"a": tensor, "t": tensor.t()})) as checkpoint:
        assert checkpoint.entries["a"].dtype == _CODES[code]
        assert read(checkpoint, "a") == raw(tensor)
        assert read(checkpoint, "t") == raw(tensor.t())


def test_conjugate_and_negative_views(tmp_path):
    tensor = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
    for view in (tensor.conj(), tensor.conj().imag, tensor[:1].conj().imag):
        with open_checkpoint(saved(tmp_path / "x.pt", {"a": view})) as checkpoint:
            assert read(checkpoint, "a") == raw(view)


def test_tied_tensors_are_one_entry(tmp_path):
    weight = torch.nn.Parameter(torch.randn(4, 4))
    state = {
        "embed": weight,
        "head": weight,
        "turned": weight.t(),
        "flat": weight.view(16),
        "e1": CUBE[:0],
        "e2": CUBE[:0],
    }
    with open_checkpoint(saved(tmp_path / "x.pt", state)) as checkpoint:
        assert checkpoint.aliases == {"head": "embed"}
        assert list(checkpoint.entries) == ["embed", "turned", "flat", "e1", "e2"]
        assert checkpoint.find("head") is checkpoint.entries["embed"]
        assert read(checkpoint, "head") == raw(weight)


def test_tied_module(tmp_path):
    model = torch.nn.Sequential(torch.nn.Embedding(7, 3), torch.nn.Linear(3, 7, bias=False))
    model[1].weight = model[0].weight
    with open_checkpoint(saved(tmp_path / "x.bin", model.state_dict())) as checkpoint:
        assert list(checkpoint.entries) == ["0.weight"]
        assert checkpoint.aliases == {"1.weight": "0.weight"}


def test_wrapped_training_checkpoint(tmp_path):
    state = {
        "epoch": 3,
        "rng_state": torch.get_rng_state(),
        "state_dict": {"module.a": CUBE, "module.tied": CUBE, "module._extra_state": None},
        "optimizer": {"state": {0: {"exp_avg": CUBE + 1}}},
    }
    with open_checkpoint(saved(tmp_path / "x.pth", state)) as checkpoint:
        assert list(checkpoint.entries) == ["a"]
        assert checkpoint.aliases == {"tied": "a"}
        assert checkpoint.left_out == ("module._extra_state",)
        assert read(checkpoint, "tied") == raw(CUBE)


def test_folder_of_shards(tmp_path):
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    saved(tmp_path / names[0], {"module.a": CUBE})
    saved(tmp_path / names[1], {"module.b": CUBE + 1, "module.c": CUBE[0]})
    weight_map = {"module.a": names[0], "module.b": names[1], "module.c": names[1]}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "config.json").write_text("{}")
    saved(tmp_path / "training_args.bin", {})
    with open_checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.entries) == ["a", "b", "c"]
        assert read(checkpoint, "b") == raw(CUBE + 1)
        assert [file.name for file in checkpoint.side_files()] == ["config.json"]


def test_element_is_not_cut(tmp_path):
    with open_checkpoint(saved(tmp_path / "x.pt", {"a": CUBE.permute(2, 0, 1)})) as checkpoint:
        for start, length in ((1, 4), (0, 3)):
            with pytest.raises(ValueError, match="cut an element of 4 bytes"):
                checkpoint.read_into("a", start, bytearray(length))


def anonymous_kib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))


def test_nothing_of_a_tensors_size_is_allocated(tmp_path):
    big = torch.zeros(4096, 4096)
    big[0] = 1
    path = saved(tmp_path / "x.pt", {"a": big, "t": big.t()})
    del big
    view = bytearray(1 << 20)
    with open_checkpoint(saved(tmp_path / "warm.pt", {"t": CUBE.transpose(0, 2)})) as warm:
        read(warm, "t")
    before = anonymous_kib()
    with open_checkpoint(path) as checkpoint:
        for name in ("a", "t"):
            for start in range(0, 64 << 20, len(view)):
                checkpoint.read_into(name, start, view)
        assert anonymous_kib() - before < 8 << 10


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_no_code_is_run(tmp_path):
    trap = tmp_path / "trap"
    for state in (Evil(trap), {"a": CUBE, "b": Evil(trap)}):
        with pytest.raises(InputError, match=r"x.pt: holds more than tensors, and no code of a checkpoint is run"):
            open_checkpoint(saved(tmp_path / "x.pt", state))
        assert not trap.exists()


def test_whole_module_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds more than tensors.*; save a state dict of tensors") as caught:
        open_checkpoint(saved(tmp_path / "x.pt", torch.nn.Linear(2, 2)))
    assert "weights_only" not in str(caught.value)  # torch's own advice is to run the code


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([CUBE], "got a list"),
        (CUBE, "got a Tensor"),
        ({"epoch": 3}, "holds no tensors"),
        ({"a\x1b[2J": CUBE}, r"'a\\x1b\[2J' holds unprintable"),
        ({"../a": CUBE}, "path separator"),
        ({"a": CUBE.to_sparse()}, "'a' is Tensor, torch.float32, torch.sparse_coo"),
        ({"a": CUBE.to("meta")}, "on meta"),
        ({"a": torch.zeros(2, dtype=torch.complex128)}, "complex128, which safetensors cannot hold"),
    ],
    ids=["list", "tensor", "no tensors", "control", "path", "sparse", "meta", "complex128"],
)
def test_refused_content(tmp_path, state, message):
    with pytest.raises(InputError, match=f"x.pt.*{message}"):
        open_checkpoint(saved(tmp_path / "x.pt", state))


def test_older_format_says_how_to_convert(tmp_path):
    path = saved(tmp_path / "x.pt", {"a": CUBE}, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"converted once with torch\.save"):
        open_checkpoint(path)
    (tmp_path / "y.pt").write_bytes(b"")
    with pytest.raises(InputError, match="not a zip checkpoint"):
        open_checkpoint(tmp_path / "y.pt")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_torchscript_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/constants.pkl", pickle.dumps(()))
        archive.writestr("x/data.pkl", pickle.dumps({}))
        archive.writestr("x/version", "3")
    with pytest.raises(InputError, match=r"x\.pt: .* with TorchScript archives"):
        open_checkpoint(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_archives(tmp_path):
    """Cut anywhere, or with a byte of the pickle changed: an error of ours or readable bytes, no other exception."""
    whole = saved(tmp_path / "x.pt", {"a": CUBE, "b": CUBE[1]}).read_bytes()
    path = tmp_path / "y.pt"
    for cut in range(4, len(whole), 97):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="y"):
            open_checkpoint(path)
    start = whole.index(b"data.pkl") + 8
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[start + int(rng.integers(0, 300))] = int(rng.integers(0, 256))
        path.write_bytes(damaged)
        try:
            with open_checkpoint(path) as checkpoint:
                for name, entry in checkpoint.entries.items():
                    if entry.nbytes <= len(whole):
                        read(checkpoint, name)
        except InputError:
            continue


@pytest.mark.parametrize("change", [lambda p: os.truncate(p, 100), lambda p: os.utime(p, ns=(1, 1)), os.unlink])
def test_file_that_changes_is_not_read(tmp_path, change):
    with open_checkpoint(saved(tmp_path / "x.pt", {"a": CUBE})) as checkpoint:
        change(tmp_path / "x.pt")
        with pytest.raises(RunError, match=r"x\.pt: (changed while|no such file, and there was one)"):
            read(checkpoint, "a")


@pytest.mark.parametrize("fields", [(0, 1), (1,)], ids=["storage and shape", "shape"])
def test_tensor_larger_than_its_storage(tmp_path, fields):
    """A pickle that claims two billion elements of a file of 2 kB."""
    path = saved(tmp_path / "x.pt", {"a": torch.arange(120.0)})
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "y.pt", "w") as target:
        for item in source.infolist():
            content = source.read(item)
            if item.filename.endswith("data.pkl"):
                parts = content.split(b"K\x78")
                assert len(parts) == 3
                claims = [b"J\xff\xff\xff\x7f" if i in fields else b"K\x78" for i in range(2)]
                content = parts[0] + claims[0] + parts[1] + claims[1] + parts[2]
            target.writestr(item.filename, content)
    with pytest.raises(InputError, match=r"y\.pt: not a readable PyTorch checkpoint"):
        open_checkpoint(tmp_path / "y.pt")
