"""Reading state dicts, fitting them to a model, and writing an encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from vision_cases import nudged, small_spec, state_of

from sta_kernels import InputError, RunError
from sta_kernels.vision import Clip, build, load_encoder, load_pretrained, read_weights, save_encoder


@pytest.fixture(scope="module")
def state(spec: str) -> dict[str, Tensor]:
    return nudged(state_of(spec), 7)


def save(state: dict[str, Tensor], folder: Path, kind: str) -> Path:
    if kind == "folder":
        save_file(state, folder / "model.safetensors")
        return folder
    file = folder / f"x.{kind.removeprefix('wrapped ')}"
    if kind == "safetensors":
        save_file(state, file)
    else:
        torch.save({"state_dict": state, "epoch": 3} if kind.startswith("wrapped") else state, file)
    return file


@pytest.mark.parametrize("kind", ["pt", "bin", "wrapped pt", "safetensors", "folder"])
def test_state_dicts(kind: str, state: dict[str, Tensor], clip: Clip, folder: Path):
    weights = read_weights(save(state, folder, kind))
    assert weights.form == "open_clip"
    assert weights.quick_gelu is None
    text = clip.model.state_dict()["token_embedding.weight"].clone()
    assert load_encoder(clip.model, weights, "x") == []
    after = clip.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items() if name.startswith("visual."))
    assert torch.equal(after["token_embedding.weight"], text), "the text encoder stays"


def test_half_precision_is_widened_and_integers_left_out(state: dict[str, Tensor], folder: Path):
    halves = {name: tensor.half() for name, tensor in state.items()} | {"context_length": torch.tensor(77)}
    save_file(halves, folder / "model.safetensors")
    weights = read_weights(folder)
    assert weights.tensors.keys() == state.keys()
    assert torch.equal(weights.tensors["visual.proj"], state["visual.proj"].half().float())


def test_nothing_there(folder: Path):
    with pytest.raises(InputError, match="absent: no such file or folder"):
        read_weights(folder / "absent")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.pop("visual.ln_post.bias"), "x: lacks visual.ln_post.bias; is it another architecture"),
        (lambda s: s.pop("visual.proj"), "x: lacks visual.proj"),
        (lambda s: s.update({"visual.extra": torch.zeros(1)}), "x: holds visual.extra, which the model has not"),
        (
            lambda s: s.update({"visual.proj": torch.zeros(32, 8)}),
            r"x: visual.proj has the shape \[32, 8\], the model's \[32, 16\]",
        ),
    ],
)
def test_what_does_not_fit(change: object, reason: str, state: dict[str, Tensor], clip: Clip, folder: Path):
    broken = dict(state)
    change(broken)  # type: ignore[operator]
    before = clip.model.state_dict()["visual.conv1.weight"].clone()
    with pytest.raises(InputError, match=reason):
        load_encoder(clip.model, read_weights(save(broken, folder, "pt")), "x")
    assert torch.equal(clip.model.state_dict()["visual.conv1.weight"], before)


def test_another_architecture_names_a_few_entries(state: dict[str, Tensor], folder: Path):
    deeper = small_spec(
        folder,
        "sta-deeper",
        vision_cfg={"image_size": 32, "layers": 3, "width": 32, "patch_size": 16, "head_width": 16},
    )
    with pytest.raises(InputError, match=r"lacks visual\.transformer\.resblocks\.2\.\S+, .* and 9 more"):
        load_encoder(build(deeper).model, read_weights(save(state, folder, "pt")), "x")


def test_quick_gelu_is_told_apart(state: dict[str, Tensor], folder: Path):
    from sta_kernels.vision import Weights

    quick = build(small_spec(folder, "sta-quick", quick_gelu=True))
    assert load_encoder(quick.model, Weights(state, "open_clip", True), "x") == []
    with pytest.raises(InputError, match="was trained with GELU, and the model computes QuickGELU"):
        load_encoder(quick.model, Weights(state, "open_clip", False), "x")


@pytest.mark.parametrize(
    ("config", "quick"),
    [
        ({"model_type": "clip", "vision_config": {"hidden_size": 32}}, True),
        ({"model_type": "clip_vision_model"}, True),
        ({"model_type": "other", "vision_config": {"model_type": "clip_vision_model"}}, True),
        ({"model_type": "clip", "vision_config": {"hidden_act": "gelu"}}, False),
        ({"model_type": "clip", "vision_config": {"hidden_act": "quick_gelu"}}, True),
        ({"model_type": "siglip", "vision_config": {}}, None),
        ({"model_type": ["clip"]}, None),
        ({}, None),
    ],
    ids=str,
)
def test_the_activation_that_a_configuration_means(
    config: dict[str, object], quick: bool | None, state: dict[str, Tensor], folder: Path
):
    save(state, folder, "folder")
    (folder / "config.json").write_text(json.dumps(config))
    assert read_weights(folder).quick_gelu is quick


def test_an_encoder_alone_is_no_pretrained_model(spec: str, state: dict[str, Tensor], folder: Path):
    encoder = {name: tensor for name, tensor in state.items() if name.startswith("visual.")}
    with pytest.raises(InputError, match="an image encoder alone, and zero-shot heads need the text encoder"):
        load_pretrained(spec, str(save(encoder, folder, "pt")))
    with pytest.raises(InputError, match=r"lacks ln_final\.weight"):
        load_pretrained(spec, str(save({n: t for n, t in state.items() if n != "ln_final.weight"}, folder, "bin")))


def test_an_encoder_is_written_and_read_again(clip: Clip, spec: str, folder: Path):
    file = save_encoder(clip.model, folder / "a" / "b")
    assert [path.name for path in file.parent.iterdir()] == ["model.safetensors"]
    written = load_file(file)
    assert written.keys() == {name for name in clip.model.state_dict() if name.startswith("visual.")}
    assert load_encoder(build(spec).model, read_weights(file.parent), file) == []


def test_what_cannot_be_written(clip: Clip, folder: Path):
    (folder / "file").touch()
    with pytest.raises(RunError, match="cannot be written"):
        save_encoder(clip.model, folder / "file" / "below")
