"""Hugging Face's names in open_clip's: the same images give the same features."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention
from vision_cases import nudged, state_of

from sta_kernels import InputError
from sta_kernels.vision import Clip, build, load_encoder, load_pretrained, read_weights
from sta_kernels.vision.names import to_open_clip

WIDTH, LAYERS, HEADS, FEATURES = 32, 2, 2, 16


def tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def layer_shapes(prefix: str, width: int, layers: int) -> dict[str, tuple[int, ...]]:
    """The entries of one encoder's layers, as transformers has them."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        here = f"{prefix}encoder.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{here}self_attn.{name}.weight": (width, width), f"{here}self_attn.{name}.bias": (width,)}
        for name in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{here}{name}.weight": (width,), f"{here}{name}.bias": (width,)}
        shapes |= {f"{here}mlp.fc1.weight": (4 * width, width), f"{here}mlp.fc1.bias": (4 * width,)}
        shapes |= {f"{here}mlp.fc2.weight": (width, 4 * width), f"{here}mlp.fc2.bias": (width,)}
    return shapes


def vision(prefix: str = "vision_model.") -> dict[str, Tensor]:
    """A CLIPVisionModel of the small model's sizes."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}embeddings.class_embedding": (WIDTH,),
        f"{prefix}embeddings.patch_embedding.weight": (WIDTH, 3, 16, 16),
        f"{prefix}embeddings.position_embedding.weight": (5, WIDTH),
    }
    for name in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{prefix}{name}.weight": (WIDTH,), f"{prefix}{name}.bias": (WIDTH,)}
    return tensors(shapes | layer_shapes(prefix, WIDTH, LAYERS))


def features(p: dict[str, Tensor], images: Tensor) -> Tensor:
    """What transformers computes, written out: image features of a CLIPVisionModelWithProjection."""

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, (WIDTH,), p[f"{name}.weight"], p[f"{name}.bias"], 1e-5)

    def dense(x: Tensor, name: str) -> Tensor:
        return linear(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def heads(x: Tensor) -> Tensor:
        return x.view(len(x), -1, HEADS, WIDTH // HEADS).transpose(1, 2)

    v = "vision_model."
    x = torch.conv2d(images, p[f"{v}embeddings.patch_embedding.weight"], stride=16).flatten(2).transpose(1, 2)
    first = p[f"{v}embeddings.class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([first, x], 1) + p[f"{v}embeddings.position_embedding.weight"]
    x = norm(x, f"{v}pre_layrnorm")
    for layer in range(LAYERS):
        here = f"{v}encoder.layers.{layer}."
        y = norm(x, f"{here}layer_norm1")
        q, k, value = (heads(dense(y, f"{here}self_attn.{part}_proj")) for part in "qkv")
        y = scaled_dot_product_attention(q, k, value).transpose(1, 2).flatten(2)
        x = x + dense(y, f"{here}self_attn.out_proj")
        y = gelu(dense(norm(x, f"{here}layer_norm2"), f"{here}mlp.fc1"))
        x = x + dense(y, f"{here}mlp.fc2")
    return linear(norm(x[:, 0], f"{v}post_layernorm"), p["visual_projection.weight"])


def with_projection() -> dict[str, Tensor]:
    projection = tensors({"visual_projection.weight": (FEATURES, WIDTH)})
    return vision() | projection | {"vision_model.embeddings.position_ids": torch.arange(5)[None]}


def test_the_same_features(spec: str, folder: Path):
    theirs = with_projection()
    save_file(theirs, folder / "model.safetensors")
    clip = build(spec)
    weights = read_weights(folder)
    assert weights.form == "huggingface"
    assert load_encoder(clip.model, weights, folder) == []
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(clip.visual(images), features(theirs, images), rtol=1e-4, atol=1e-5)


def test_without_projection_it_stays_the_pretrained_one(spec: str, clip: Clip, folder: Path):
    before = clip.model.state_dict()["visual.proj"].clone()
    torch.save(vision(), folder / "pytorch_model.bin")
    assert load_encoder(clip.model, read_weights(folder), folder) == ["visual.proj"]
    after = clip.model.state_dict()
    assert torch.equal(after["visual.proj"], before)
    assert torch.equal(after["visual.ln_post.weight"], vision()["vision_model.post_layernorm.weight"])


@pytest.mark.parametrize("outer", ["", "clip.", "module.encoder."])
@pytest.mark.parametrize("inner", ["vision_model.", ""])
def test_prefixes(outer: str, inner: str):
    plain, form = to_open_clip(vision(), "x")
    wrapped, again = to_open_clip(vision(outer + inner), "x")
    assert form == again == "huggingface"
    assert plain.keys() == wrapped.keys()
    assert all(torch.equal(plain[name], wrapped[name]) for name in plain)


def test_a_whole_model_with_its_text_encoder(spec: str, folder: Path):
    shapes: dict[str, tuple[int, ...]] = {
        "text_model.embeddings.token_embedding.weight": (49408, 16),
        "text_model.embeddings.position_embedding.weight": (77, 16),
        "text_model.final_layer_norm.weight": (16,),
        "text_model.final_layer_norm.bias": (16,),
        "text_projection.weight": (16, 16),
        "logit_scale": (),
    }
    whole = with_projection() | tensors(shapes | layer_shapes("text_model.", 16, 1))
    save_file(whole, folder / "model.safetensors")
    state = load_pretrained(spec, str(folder)).model.state_dict()
    assert torch.equal(state["text_projection"], whole["text_projection.weight"].T)
    assert torch.equal(state["token_embedding.weight"], whole["text_model.embeddings.token_embedding.weight"])
    key = "text_model.encoder.layers.0.self_attn.k_proj.weight"
    assert torch.equal(state["transformer.resblocks.0.attn.in_proj_weight"][16:32], whole[key])


def test_a_strange_entry_is_refused():
    with pytest.raises(InputError, match=r"'vision_model.encoder.layers.0.adapter.weight' is no tensor of"):
        to_open_clip(vision() | {"vision_model.encoder.layers.0.adapter.weight": torch.zeros(1)}, "x")


def test_a_missing_third_is_refused():
    broken = vision()
    del broken["vision_model.encoder.layers.1.self_attn.k_proj.bias"]
    with pytest.raises(InputError, match=r"resblocks\.1\.attn\.in_proj_bias lacks its k"):
        to_open_clip(broken, "x")


def test_the_configuration_tells_the_activation(spec: str, clip: Clip, folder: Path):
    save_file(with_projection(), folder / "model.safetensors")
    for config, expected in (({"hidden_act": "gelu"}, False), ({"vision_config": {"hidden_act": "quick_gelu"}}, True)):
        (folder / "config.json").write_text(json.dumps(config))
        assert read_weights(folder).quick_gelu is expected
    with pytest.raises(InputError, match="was trained with QuickGELU, and the model computes GELU"):
        load_encoder(clip.model, read_weights(folder), folder)
    for text in ("[]", "{", "{}"):
        (folder / "config.json").write_text(text)
        assert read_weights(folder).quick_gelu is None


@pytest.mark.parametrize("outer", ["", "model.", "module.image_encoder.model."])
def test_the_image_encoder_is_found_in_other_modules(outer: str, spec: str):
    state = nudged(state_of(spec), 1)
    found, form = to_open_clip({outer + name: tensor for name, tensor in state.items()}, "x")
    assert form == "open_clip"
    assert found.keys() == state.keys()
    alone = {name.removeprefix("visual."): tensor for name, tensor in state.items() if name.startswith("visual.")}
    assert to_open_clip(alone, "x")[0].keys() == {"visual." + name for name in alone}


def test_no_or_several_image_encoders():
    with pytest.raises(InputError, match=r"no image encoder .* its tensors are a, b, …"):
        to_open_clip({"a": torch.zeros(1), "b": torch.zeros(1)}, "x")
    two = {"a.visual.proj": torch.zeros(1), "b.visual.proj": torch.zeros(1)}
    with pytest.raises(InputError, match=r"could be any of a\., b\."):
        to_open_clip(two, "x")
