"""Pickled modules: the tensors come out, and nothing that the pickle asks for is run."""

from __future__ import annotations

import os
import sys
import types
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from sta_kernels import InputError
from sta_kernels.vision import Clip, build, load_encoder, read_weights
from sta_kernels.vision.pickled import foreign_names, read_pickled

ran: list[str] = []


def note(what: str) -> str:
    ran.append(what)
    return what


def module_named(name: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module that is there while a file is written, and gone when it is read."""
    for part in (name.partition(".")[0], name):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    return sys.modules[name]


def forget(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in (name.partition(".")[0], name):
        monkeypatch.setitem(sys.modules, part, None)


def save_encoder_of(clip: Clip, file: Path, monkeypatch: pytest.MonkeyPatch, module: str = "src.modeling") -> None:
    """As the task-arithmetic papers' scripts do: the whole object, its text transformer taken away."""

    class ImageEncoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.train_preprocess, self.val_preprocess = clip.model, clip.augment, clip.preprocess
            self.cache_dir = None
            del self.model.transformer

        def __setstate__(self, state: dict[str, object]) -> None:
            note("setstate")
            super().__setstate__(state)

    ImageEncoder.__module__, ImageEncoder.__qualname__ = module, "ImageEncoder"
    module_named(module, monkeypatch).ImageEncoder = ImageEncoder  # type: ignore[attr-defined]
    torch.save(ImageEncoder(), file)
    forget(module, monkeypatch)


@pytest.mark.parametrize("module", ["src.modeling", "modeling"])
def test_an_image_encoder(module: str, spec: str, clip: Clip, folder: Path, monkeypatch: pytest.MonkeyPatch):
    expected = {name: tensor.clone() for name, tensor in clip.model.state_dict().items() if name.startswith("visual.")}
    file = folder / "finetuned.pt"
    save_encoder_of(clip, file, monkeypatch, module)
    ran.clear()
    weights = read_weights(file)
    assert weights.form == "pickled"
    assert weights.quick_gelu is False
    read = {name: tensor for name, tensor in weights.tensors.items() if name.startswith("visual.")}
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())
    assert not any("attn_mask" in name for name in weights.tensors), "a buffer that no state dict holds"
    assert load_encoder(build(spec).model, weights, file) == []
    assert ran == []
    assert f"{module}.ImageEncoder" in foreign_names(file)


class Runs:
    """Asks its unpickler to call something."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call  # type: ignore[return-value]


def test_code_is_not_run(folder: Path):
    mark = folder / "ran"
    for number, evil in enumerate(
        (Runs(os.system, f"touch {mark}"), Runs(note, "it"), Runs(exec, f"open({str(mark)!r}, 'w')"))
    ):
        file = folder / f"evil{number}.pt"
        torch.save(OrderedDict(weight=torch.zeros(2), evil=evil), file)
        ran.clear()
        with pytest.raises(InputError, match=r"names .*(system|note|exec), which is nothing .* no code"):
            read_weights(file)
        assert ran == []
        assert not mark.exists()


def test_code_under_a_known_name_is_not_run_either(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A function where an encoder's classes come from: a stand-in is called in its place."""
    function = types.FunctionType(note.__code__, {"ran": ran}, "ImageEncoder")
    function.__module__, function.__qualname__ = "src.modeling", "ImageEncoder"
    module_named("src.modeling", monkeypatch).ImageEncoder = function  # type: ignore[attr-defined]
    torch.save({"model": torch.zeros(2), "evil": Runs(function, "it")}, folder / "evil.pt")
    ran.clear()
    with pytest.raises(InputError, match="and no module"):
        read_weights(folder / "evil.pt")
    assert ran == []


def test_a_neighbour_of_a_known_origin_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch):
    class Thing:
        pass

    Thing.__module__, Thing.__qualname__ = "src.modelingtools", "Thing"
    module_named("src.modelingtools", monkeypatch).Thing = Thing  # type: ignore[attr-defined]
    torch.save(Thing(), folder / "x.pt")
    with pytest.raises(InputError, match=r"names src\.modelingtools\.Thing"):
        read_pickled(folder / "x.pt")


def test_what_is_beside_modules_may_be_an_enumeration(folder: Path):
    from PIL.Image import Resampling

    linear = nn.Linear(2, 3)
    linear.interpolation = Resampling.BICUBIC  # type: ignore[assignment]
    torch.save(linear, folder / "x.pt")
    tensors, classes = read_pickled(folder / "x.pt")
    assert torch.equal(tensors["weight"], linear.weight)
    assert "Linear" in classes


def test_a_module_in_itself(folder: Path):
    inner = nn.Sequential(nn.Linear(1, 1))
    inner._modules["again"] = inner
    torch.save(inner, folder / "x.pt")
    with pytest.raises(InputError, match="nested deeper"):
        read_pickled(folder / "x.pt")


def test_a_module_without_parameters(folder: Path):
    torch.save(nn.Sequential(nn.Identity()), folder / "x.pt")
    with pytest.raises(InputError, match="the Sequential in it has no parameters"):
        read_pickled(folder / "x.pt")


def test_torchscript_is_refused(folder: Path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(folder / "x.pt"))
    with pytest.raises(InputError, match="a TorchScript archive, which is code"):
        read_weights(folder / "x.pt")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and nothing more", b"\x80\x02}q\x00."])
def test_a_damaged_file(content: bytes, folder: Path):
    (folder / "x.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.pt: "):
        read_weights(folder / "x.pt")


def test_a_file_cut_short(clip: Clip, folder: Path, monkeypatch: pytest.MonkeyPatch):
    save_encoder_of(clip, folder / "x.pt", monkeypatch)
    whole = (folder / "x.pt").read_bytes()
    for share in (0.3, 0.9, 0.999):
        (folder / "x.pt").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match="not a readable PyTorch checkpoint"):
            read_weights(folder / "x.pt")
