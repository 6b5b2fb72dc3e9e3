"""Parts of a model that are merged each by itself: names, layers, configuration, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sta_kernels.engine import Manifest, merge_checkpoints
from sta_kernels.errors import InputError

Tensors = dict[str, torch.Tensor]
NAMES = ("text_model.embed.weight", "visual.patch_embed.weight", "visual.merger.mlp.0.weight", "head.weight",
         *(f"text_model.layers.{i}.up.weight" for i in range(2)),
         *(f"visual.blocks.{i}.up.weight" for i in range(2)))  # fmt: skip
STACKS = ("text_model.layers", "visual.blocks")


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensors]:
    """A base, a and b in the working directory, of two towers of two layers each."""
    monkeypatch.chdir(tmp_path)
    config = {"text_config": {"num_hidden_layers": 2, "layer_types": ["x", "y"]}, "vision_config": {"depth": 2}}
    written = {}
    for seed, name in enumerate(("base", "a", "b")):
        generator = torch.Generator().manual_seed(seed)
        written[name] = {key: torch.randn(3, 2, generator=generator) for key in NAMES}
        Path(name).mkdir()
        save_file(written[name], f"{name}/model.safetensors")
        Path(name, "config.json").write_text(json.dumps(config))
    return written


def whole(model: str, weight: float = 1.0) -> dict[str, Any]:
    return {"models": [{"model": model, "parameters": {"weight": weight}}]}


def stacked(*parts: tuple[str, int, int]) -> dict[str, Any]:
    return {"slices": [{"sources": [{"model": model, "layer_range": [start, stop]}]} for model, start, stop in parts]}


def merged(modules: dict[str, Any], out: str = "out", **keys: Any) -> tuple[Tensors, Any]:
    result = merge_checkpoints({"merge_method": "linear", "modules": modules, **keys}, out, threads=1)
    assert isinstance(result, Manifest)
    return load_file(Path(out, "model.safetensors")), json.loads(Path(out, "config.json").read_text())


def test_stacks_by_their_names_and_all_else(models: dict[str, Tensors]):
    out, config = merged({STACKS[0]: whole("a"), "default": whole("b"), STACKS[1]: whole("base")})
    assert out.keys() == set(NAMES)
    for name, tensor in out.items():
        source = "a" if name.startswith(STACKS[0]) else "base" if name.startswith(STACKS[1]) else "b"
        assert torch.equal(tensor, models[source][name]), name
    assert config == json.loads(Path("a/config.json").read_text())


def test_parts_by_mergekits_names(models: dict[str, Tensors]):
    out, _ = merged({"text_decoder": whole("a"), "multi_modal_projector": whole("b"), "vision_tower": whole("base")})
    for name, tensor in out.items():
        source = "b" if ".merger." in name else "base" if name.startswith("visual") else "a"
        assert torch.equal(tensor, models[source][name]), name


def test_slices_of_one_module_change_its_numbers_of_layers_alone(models: dict[str, Tensors]):
    """Both towers have two layers, and the second has as many afterwards as the first had."""
    tower = stacked(("a", 0, 2), ("b", 0, 2))
    modules = {"text_decoder": tower, "vision_tower": stacked(("b", 1, 2)), "multi_modal_projector": whole("a")}
    out, config = merged(modules)
    assert config["text_config"] == {"num_hidden_layers": 4, "layer_types": list("xyxy")}
    assert config["vision_config"] == {"depth": 1}
    for i, (source, layer) in enumerate((("a", 0), ("a", 1), ("b", 0), ("b", 1))):
        assert torch.equal(
            out[f"text_model.layers.{i}.up.weight"], models[source][f"text_model.layers.{layer}.up.weight"]
        )
    assert torch.equal(out["visual.blocks.0.up.weight"], models["b"]["visual.blocks.1.up.weight"])
    assert torch.equal(out["text_model.embed.weight"], models["a"]["text_model.embed.weight"])
    assert torch.equal(out["head.weight"], models["b"]["head.weight"])
    assert "visual.blocks.1.up.weight" not in out


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_layers": 3, "num_decoder_layers": 2}, {"num_layers": 3, "num_decoder_layers": 1}),
        ({"num_layers": 2}, {"num_layers": 1}),
        ({"num_layers": 2, "depth": 2}, None),
    ],
)
def test_a_configuration_that_does_not_name_the_module(config: dict[str, Any], expected: Any):
    """The only number there is; of several, none, and a note."""
    Path("a/config.json").write_text(json.dumps(config))
    modules = {STACKS[1]: stacked(("a", 0, 1)), "default": whole("a"), STACKS[0]: whole("a")}
    if expected is None:
        said = rf"a/config\.json: no key holds its number of layers of {STACKS[1]}, 2; set it to 1 in the result"
        with pytest.warns(UserWarning, match=said):
            assert merged(modules)[1] == config
    else:
        assert merged(modules)[1] == expected


def test_each_module_has_its_own_depth_and_patterns_hold_for_all(models: dict[str, Tensors]):
    weight = {"parameters": {"weight": [0, 1]}}
    modules = {
        "text_decoder": {"models": [{"model": "a", **weight}]},
        "vision_tower": {"models": [{"model": "b", **weight}]},
    }
    keys: dict[str, Any] = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "exclude": ["*.merger.*", "head.*"],
    }
    out, _ = merged(modules, **keys)
    base = models["base"]
    for name, tensor in out.items():
        change = models["b" if name.startswith("visual") else "a"][name] - base[name]
        moved = ".1." in name
        assert torch.equal(tensor, base[name] + change if moved else base[name]), name
    with pytest.raises(InputError, match=r"exclude: 'nowhere' matches no tensor"):
        merged(modules, "other", **{**keys, "exclude": ["nowhere"]})


def test_what_is_tied_belongs_where_the_first_name_does(models: dict[str, Tensors]):
    shared = "visual.tokens.weight"
    tied = {**models["a"], shared: models["a"]["text_model.embed.weight"]}
    torch.save(tied, "tied.pt")
    modules = {"vision_tower": whole("tied.pt"), "text_decoder": whole("tied.pt", 2.0)}
    merge_checkpoints({"merge_method": "linear", "modules": modules, "parameters": {"normalize": False}}, "out")
    written = load_file("out/model.safetensors")
    assert shared not in written
    assert torch.equal(written["text_model.embed.weight"], 2 * tied[shared])


def test_numbers_of_layers_are_found_before_any_is_changed():
    """The first tower gets as many layers as the second had."""
    tensors = {
        f"{tower}.{i}.up": torch.full((2,), float(i)) for tower, count in (("one", 2), ("two", 3)) for i in range(count)
    }
    save_file(tensors, "b/model.safetensors")
    Path("b/config.json").write_text(json.dumps({"num_layers": 2, "depth": 3}))
    _, config = merged({"one": stacked(("b", 0, 2), ("b", 1, 2)), "two": stacked(("b", 0, 1))})
    assert config == {"num_layers": 3, "depth": 1}


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            {"text": whole("a"), "default": whole("a")},
            r"modules\.text: no tensor of a belongs to it; a module is a stack",
        ),
        (
            {STACKS[0]: whole("a"), STACKS[1]: whole("a")},
            r"modules: 'head\.weight' and 3 more of a belong to none; add `def",
        ),
        ({"vision_tower": whole("a")}, r"modules: 'head\.weight' and 3 more of a belong to none; add `default`"),
        ({"default": whole("a"), "shared": whole("a")}, r"modules\.shared: `default` takes all that is left already"),
        (
            {"vision_tower": whole("a"), "vision_model": whole("a"), "default": whole("a")},
            r"modules\.vision_model: no te",
        ),
        (
            {"vision_tower": stacked(("a", 0, 1)), "default": whole("a")},
            r"modules\.vision_tower: slices need .*found: 'visual\.blocks', 'visual\.merger\.mlp'",
        ),
        (
            {"text_decoder": stacked(("a", 0, 3)), "multi_modal_projector": whole("a"), "vision_tower": whole("a")},
            r"text_decoder\.slices\[0\]\.sources\[0\]\.model: layers \[0, 3\) of a, which has 2 under 'text_m",
        ),
    ],
)
def test_refused(modules: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        merged(modules)
