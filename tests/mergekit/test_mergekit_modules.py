"""Models of several parts: a recipe with `modules` under mergekit's names for them, run by both."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from mergekit_checkpoints import read_checkpoint, write_checkpoint
from mergekit_compare import ULPS

import sta_kernels as sk

if TYPE_CHECKING:
    from conftest import Mergekit

pytestmark = pytest.mark.filterwarnings("ignore:.*matches no merged tensor")
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 50}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
          "image_size": 16, "patch_size": 4}  # fmt: skip
T5 = {
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 48,
    "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4, "vocab_size": 50, "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}  # fmt: skip
BART = {
    "architectures": ["BartForConditionalGeneration"], "model_type": "bart", "d_model": 32, "encoder_layers": 2,
    "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "vocab_size": 50, "max_position_embeddings": 16,
}  # fmt: skip
SIGLIP = {
    "architectures": ["SiglipModel"], "model_type": "siglip",
    "text_config": {**TEXT, "max_position_embeddings": 8}, "vision_config": VISION,
}  # fmt: skip
QWEN3_VL = {
    "architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl",
    "text_config": {**TEXT, "num_key_value_heads": 2, "head_dim": 8, "model_type": "qwen3_vl_text"},
    "vision_config": {"depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "patch_size": 4,
                      "out_hidden_size": 32, "deepstack_visual_indexes": [0, 1, 2]},
}  # fmt: skip
CASES = {
    "t5": (T5, {"encoder": 3, "decoder": 2, "shared": 0}),
    "bart": (BART, {"model.encoder.layers": 2, "default": 0, "model.decoder.layers": 3}),
    "siglip": (SIGLIP, {"default": 0, "text_model.encoder.layers": 3, "vision_model.encoder.layers": 2}),
    "qwen3_vl": (QWEN3_VL, {"text_decoder": 3, "multi_modal_projector": 0, "vision_tower": 3}),
}
"""Configuration, and how many layers each module has; 0 of those that are not cut into slices."""
KNOWN = ("T5ForConditionalGeneration", "Qwen3VLForConditionalGeneration")
"""Architectures that mergekit has a table of: of others, its `config.json` keeps the number of layers."""


@pytest.fixture(scope="module", params=list(CASES))
def parts(
    request: pytest.FixtureRequest, mergekit: Mergekit, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], dict[str, int]]:
    """A base and two models, and the number of layers of each module."""
    config, modules = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    shapes = mergekit.ask("names", config=config, model=config["architectures"][0])
    generator = torch.Generator().manual_seed(sum(request.param.encode()))
    for name in ("base", "first", "second"):
        tensors = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
        write_checkpoint(folder / name, tensors, {**config, "torch_dtype": "float32"})
    return [str(folder / name) for name in ("base", "first", "second")], modules


def drawn(rng: random.Random) -> Any:
    """A weight for all layers or for each; by filter in some."""
    weight = [round(rng.uniform(0.2, 1.2), 2) for _ in range(rng.choice((1, 1, 2, 3)))]
    value = weight if len(weight) > 1 else weight[0]
    return (
        value
        if rng.random() < 0.6
        else [{"filter": rng.choice(("attn", "fc1", ".1.")), "value": 0.1}, {"value": value}]
    )


def module(models: list[str], layers: int, rng: random.Random) -> dict[str, Any]:
    """Whole models or, of layers, slices of them."""
    base, *others = models
    own = {"parameters": {"weight": drawn(rng)}} if rng.random() < 0.5 else {}
    if layers == 0 or rng.random() < 0.4:
        entries = [{"model": model, "parameters": {"weight": drawn(rng)}} for model in others[: rng.randint(1, 2)]]
        return {"models": entries, **own}
    slices = []
    for _ in range(2):
        length = rng.randint(1, layers)
        start = rng.randint(0, layers - length)
        sources = [{"model": model, "layer_range": [start, start + length]} for model in (base, *others)]
        slices.append({"sources": sources, "parameters": {"weight": drawn(rng)}})
    return {"slices": slices, **own}


@pytest.mark.parametrize("seed", range(4))
def test_modules(seed: int, parts: tuple[list[str], dict[str, int]], mergekit: Mergekit, tmp_path: Path):
    models, modules = parts
    rng = random.Random(f"{models[0]} {seed}")
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": models[0],
        "modules": {name: module(models, layers, rng) for name, layers in modules.items()},
        "parameters": {"weight": drawn(rng)},
        "dtype": "float32",
    }
    check(recipe, mergekit, tmp_path)


def test_whole_models_have_the_same_modules(
    parts: tuple[list[str], dict[str, int]], mergekit: Mergekit, tmp_path: Path
):
    """Without `modules`, each part has its own depth."""
    entries = [{"model": model, "parameters": {"weight": [0.2, 0.9]}} for model in parts[0][1:]]
    recipe = {"merge_method": "linear", "models": entries, "parameters": {"normalize": False}, "dtype": "float32"}
    check(recipe, mergekit, tmp_path)


def check(recipe: Mapping[str, Any], mergekit: Mergekit, folder: Path) -> None:
    """The same tensors, and the same numbers of layers."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(dict(recipe), sort_keys=False))
    mergekit.merge(path, folder / "theirs")
    sk.merge_checkpoints(path, folder / "ours", threads=1)
    ours, theirs = read_checkpoint(folder / "ours"), read_checkpoint(folder / "theirs")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        allowed = ULPS * tensor.abs().clamp(min=4.0) * torch.finfo(torch.float32).eps
        assert ((ours[name] - tensor).abs() <= allowed).all(), name
    configs = [json.loads((folder / who / "config.json").read_text()) for who in ("ours", "theirs")]
    if configs[0]["architectures"][0] in KNOWN:
        ours_said, theirs_said = map(layers_of, configs)
        assert ours_said == theirs_said


def layers_of(config: Mapping[str, Any]) -> dict[str, int]:
    """What a configuration says of numbers of layers, wherever it does."""
    sections = {"": config, **{key: value for key, value in config.items() if isinstance(value, dict)}}
    keys = ("num_layers", "num_decoder_layers", "num_hidden_layers", "depth")
    return {f"{section}.{key}": part[key] for section, part in sections.items() for key in keys if key in part}
