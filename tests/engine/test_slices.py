"""Layers of several models in one stack: names, values, numbers of layers, and what is refused."""

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
INNER = {"attn.weight": (6, 4), "norm.bias": (4,), "mlp.experts.1.weight": (4, 3)}


def model(seed: int, layers: int, dtype: torch.dtype = torch.float32) -> Tensors:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    tensors = {f"net.layers.{i}.{name}": normal(*shape) for i in range(layers) for name, shape in INNER.items()}
    outside = {"net.embed_tokens.weight": normal(9, 4), "net.norm.weight": normal(4), "lm_head.weight": normal(9, 4)}
    return {**tensors, **outside, "net.position_ids": torch.arange(5)}


def save(name: str, tensors: Tensors, config: dict[str, Any] | None = None) -> Tensors:
    Path(name).mkdir()
    save_file(tensors, Path(name, "model.safetensors"))
    if config is not None:
        Path(name, "config.json").write_text(json.dumps(config))
    return tensors


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensors]:
    """A base, a and b of four layers each, in the working directory."""
    monkeypatch.chdir(tmp_path)
    config = {"num_hidden_layers": 4, "layer_types": list("wxyz"), "hidden_size": 4, "torch_dtype": "float32"}
    return {name: save(name, model(seed, 4), config) for seed, name in enumerate(("base", "a", "b"))}


def merged(recipe: dict[str, Any], out: str = "out", **options: Any) -> Tensors:
    result = merge_checkpoints(recipe, out, threads=1, **options)
    assert isinstance(result, Manifest)
    return load_file(Path(out, "model.safetensors"))


def source(name: str, start: int, stop: int, **parameters: Any) -> dict[str, Any]:
    return {"model": name, "layer_range": [start, stop], **({"parameters": parameters} if parameters else {})}


def stack(*sources: dict[str, Any]) -> dict[str, Any]:
    return {"merge_method": "passthrough", "slices": [{"sources": [each]} for each in sources]}


def layers_of(tensors: Tensors) -> int:
    return 1 + max(int(name.split(".")[2]) for name in tensors if ".layers." in name)


def test_layers_are_stacked_and_renumbered(models: dict[str, Tensors]):
    a, b = models["a"], models["b"]
    out = merged(stack(source("a", 0, 3), source("b", 1, 4), source("a", 1, 2, scale=0.5)))
    assert layers_of(out) == 7
    for name in INNER:
        taken = [a[f"net.layers.{i}.{name}"] for i in (0, 1, 2)] + [b[f"net.layers.{i}.{name}"] for i in (1, 2, 3)]
        for i, tensor in enumerate([*taken, a[f"net.layers.1.{name}"] * 0.5]):
            assert torch.equal(out[f"net.layers.{i}.{name}"], tensor), (i, name)


def test_outside_layers_the_first_and_the_last_slice_decide(models: dict[str, Tensors]):
    out = merged(stack(source("a", 0, 2), source("b", 2, 4, scale=2)))
    assert torch.equal(out["net.embed_tokens.weight"], models["a"]["net.embed_tokens.weight"])
    assert torch.equal(out["net.position_ids"], torch.arange(5))
    for name in ("net.norm.weight", "lm_head.weight"):
        assert torch.equal(out[name], models["b"][name] * 2)


def test_the_configuration_counts_the_layers_that_are_written(models: dict[str, Tensors]):
    merged(stack(source("a", 0, 3), source("b", 1, 4)))
    config = json.loads(Path("out", "config.json").read_text())
    assert config == {"num_hidden_layers": 6, "layer_types": list("wxyxyz"), "hidden_size": 4, "torch_dtype": "float32"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"n_layer": 4, "n_head": 4}, {"n_layer": 3, "n_head": 4}),
        ({"text_config": {"num_layers": 4}, "depth": 5}, {"text_config": {"num_layers": 3}, "depth": 5}),
    ],
)
def test_whatever_key_holds_the_number(models: dict[str, Tensors], config: dict[str, Any], expected: dict[str, Any]):
    Path("a", "config.json").write_text(json.dumps(config))
    merged(stack(source("a", 0, 1), source("b", 0, 2)))
    assert json.loads(Path("out", "config.json").read_text()) == expected


def test_a_configuration_without_such_a_key_is_noted(models: dict[str, Tensors]):
    Path("a", "config.json").write_text('{"hidden_size": 4}')
    with pytest.warns(UserWarning, match=r"a/config\.json: no key holds its number of layers, 4; set it to 3"):
        merged(stack(source("a", 0, 3)))


def slices_of(method: str, **keys: Any) -> dict[str, Any]:
    first = [source("base", 0, 2), source("a", 0, 2, weight=0.5), source("b", 2, 4)]
    second = [source("b", 3, 4, weight=[3, 7]), source("base", 1, 2)]
    slices = [{"sources": first}, {"sources": second, "parameters": {"lambda": 0.25}}]
    return {"merge_method": method, "base_model": "base", "slices": slices, **keys}


def test_differences_are_from_the_layer_of_the_base_that_the_slice_names(models: dict[str, Tensors]):
    base, a, b = models["base"], models["a"], models["b"]
    out = merged(slices_of("task_arithmetic", parameters={"weight": [{"filter": "norm", "value": 0}, {"value": 2}]}))
    assert layers_of(out) == 3
    for i in range(2):
        name = f"net.layers.{i}.attn.weight"
        theta = base[name]
        want = theta + (0.5 * (a[name] - theta) + 2 * (b[f"net.layers.{i + 2}.attn.weight"] - theta))
        assert torch.equal(out[name], want)
    theta = base["net.layers.1.attn.weight"]
    # A slice of one layer stands at depth 1, and what follows the layers at 0.
    assert torch.equal(out["net.layers.2.attn.weight"], theta + 0.25 * (7 * (b["net.layers.3.attn.weight"] - theta)))
    head = base["lm_head.weight"]
    assert torch.equal(out["lm_head.weight"], head + 0.25 * (3 * (b["lm_head.weight"] - head)))
    norm = base["net.layers.0.norm.bias"]
    assert torch.equal(out["net.layers.0.norm.bias"], norm + 0.5 * (a["net.layers.0.norm.bias"] - norm))


def test_gradients_run_over_a_slice(models: dict[str, Tensors]):
    recipe = {"merge_method": "linear", "parameters": {"weight": [0, 1], "normalize": False}}
    out = merged({**recipe, "slices": [{"sources": [source("b", 2, 3)]}, {"sources": [source("a", 1, 4)]}]})
    assert torch.equal(out["net.layers.0.norm.bias"], models["b"]["net.layers.2.norm.bias"])
    for i in range(1, 4):
        assert torch.equal(out[f"net.layers.{i}.norm.bias"], models["a"][f"net.layers.{i}.norm.bias"] * ((i - 1) / 2))
    assert not out["net.embed_tokens.weight"].any()


def test_what_is_kept_is_counted_per_model(models: dict[str, Tensors]):
    for name in ("a", "b"):
        weights = {key: value.abs() for key, value in models[name].items() if value.is_floating_point()}
        save_file(weights, Path(name, "importance.safetensors"))

    def task(name: str, start: int, stop: int) -> dict[str, Any]:
        return source(name, start, stop, importance=f"{name}/importance.safetensors")

    slices = [
        {"sources": [source("base", 0, 1), task("a", 0, 1), task("b", 1, 2)]},
        {"sources": [source("base", 1, 3), task("b", 2, 4), task("a", 0, 2)]},
    ]
    recipe = {"merge_method": "sta", "base_model": "base", "slices": slices, "parameters": {"keep": 1}}
    result = merge_checkpoints(recipe, "out")
    assert isinstance(result, Manifest)
    out = load_file("out/model.safetensors")
    base, a = models["base"], models["a"]
    by_name = {record["name"]: record["kept"] for record in result.tensors}
    unrouted = {record["name"]: record["unrouted"] for record in result.tensors}
    for layer, of_base, of_a in ((0, 0, 0), (1, 1, 0), (2, 2, 1)):
        name = f"net.layers.{layer}.attn.weight"
        theta, tuned = base[f"net.layers.{of_base}.attn.weight"], a[f"net.layers.{of_a}.attn.weight"]
        assert by_name[name][0] == int((out[name] == theta + (tuned - theta)).sum())
        assert sum(by_name[name]) + unrouted[name] == 24
    assert [model for model in result.notes if "equals the base" in model] == []


def test_patterns_hold_for_names_of_the_result(models: dict[str, Tensors]):
    recipe = stack(source("a", 0, 1, scale=3), source("b", 3, 4, scale=3))
    out = merged({**recipe, "exclude": ["*.layers.1.norm.bias"], "split": {"*layers.0.attn.weight": 2}})
    assert torch.equal(out["net.layers.1.norm.bias"], models["b"]["net.layers.3.norm.bias"])
    assert torch.equal(out["net.layers.0.norm.bias"], 3 * models["a"]["net.layers.0.norm.bias"])
    for key in ("exclude", "split"):
        value: Any = ["*.layers.2.*"] if key == "exclude" else {"*.layers.2.*": 2}
        with pytest.raises(InputError, match=rf"{key}: '\*\.layers\.2\.\*' matches no tensor"):
            merged({**recipe, key: value}, "other")


@pytest.mark.parametrize("extra", ["net.rotary.inv_freq", "net.layers.1.rotary.inv_freq"])
def test_a_tensor_that_only_one_model_has_can_be_excluded(models: dict[str, Tensors], extra: str):
    save("more", {**models["b"], extra: torch.ones(2)})
    parts = [{"sources": [source(name, i, i + 1) for name in ("a", "more")]} for i in range(2)]
    recipe = {"merge_method": "linear", "slices": parts, "parameters": {"weight": 0.5}}
    with pytest.raises(InputError, match=r"inv_freq"):
        merged(recipe, "refused")
    out = merged({**recipe, "exclude": ["*.inv_freq"]})
    assert extra not in out
    for name, tensor in out.items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, 0.5 * models["a"][name] + 0.5 * models["b"][name]), name


def test_filters_that_find_nothing_in_any_slice_are_noted(models: dict[str, Tensors]):
    filters = [{"filter": "layers.1.attn", "value": 0.1}, {"filter": "nowhere", "value": 0.2}, {"value": 1}]
    recipe = slices_of("task_arithmetic", parameters={"normalize": False, "weight": filters})
    plan = merge_checkpoints(recipe, "out", dry_run=True)
    assert [note for note in plan.notes if "filter" in note] == [
        "weight: the filter 'nowhere' matches no merged tensor"
    ]  # fmt: skip


def test_slices_resume_and_finish_like_any_merge(models: dict[str, Tensors]):
    recipe = slices_of("task_arithmetic")
    first = merge_checkpoints(recipe, "out")
    again = merge_checkpoints(recipe, "out")
    assert isinstance(first, Manifest)
    assert isinstance(again, Manifest)
    assert again.already_finished
    assert again.identity == first.identity


def test_a_layer_beyond_the_model_names_source_and_model(models: dict[str, Tensors]):
    with pytest.raises(InputError, match=r"slices\[1\]\.sources\[0\]\.model: layers \[2, 5\) of b, which has 4 under "):
        merged(stack(source("a", 0, 1), source("b", 2, 5)))


def test_towers_cannot_be_told_apart(models: dict[str, Tensors]):
    two = {**models["a"], "vision.blocks.0.weight": torch.ones(2)}
    save("two", two)
    with pytest.raises(InputError, match=r"two: slices need .* stacks found: 'net.layers', 'vision.blocks'"):
        merged(stack(source("two", 0, 1)))
    save("none", {"weight": torch.ones(2)})
    with pytest.raises(InputError, match="stacks found: none"):
        merged(stack(source("none", 0, 1)))


def test_layers_of_other_tensors_are_refused_by_name(models: dict[str, Tensors]):
    other = {name: value for name, value in models["b"].items() if name != "net.layers.3.norm.bias"}
    save("other", other)
    recipe = {"merge_method": "linear", "slices": [{"sources": [source("a", 0, 1), source("other", 3, 4)]}]}
    with pytest.raises(InputError, match=r"other: no entry 'net\.layers\.0\.norm\.bias'"):
        merged(recipe)


def test_a_tied_head_follows_the_embedding_where_one_model_gives_both(models: dict[str, Tensors]):
    tied = dict(models["a"])
    tied["lm_head.weight"] = tied["net.embed_tokens.weight"]
    torch.save(tied, "tied.pt")
    out = merged(stack(source("tied.pt", 0, 2, scale=2), source("tied.pt", 1, 2)))
    assert "lm_head.weight" not in out
    assert torch.equal(out["net.embed_tokens.weight"], 2 * models["a"]["net.embed_tokens.weight"])
    other = merged(stack(source("tied.pt", 0, 2), source("b", 2, 4)), "other")
    assert torch.equal(other["net.embed_tokens.weight"], models["a"]["net.embed_tokens.weight"])
    assert torch.equal(other["lm_head.weight"], models["b"]["lm_head.weight"])
    last = merged(stack(source("b", 0, 2), source("tied.pt", 0, 2)), "last")
    assert torch.equal(last["lm_head.weight"], models["a"]["net.embed_tokens.weight"])


def test_a_statistic_over_the_model_is_one_over_all_slices(models: dict[str, Tensors]):
    """As of a model that has these layers; which needs the same models in each."""
    recipe = {"merge_method": "ties", "base_model": "base", "parameters": {"density": 0.3, "scope": "model"}}

    def part(*layers: int, names: tuple[str, ...] = ("base", "a", "b")) -> dict[str, Any]:
        return {"sources": [source(name, layer, layer + 1) for name, layer in zip(names, layers, strict=True)]}

    parts = [(0, 0, 1), (2, 3, 2), (1, 1, 1)]
    out = merged({**recipe, "slices": [part(*layers) for layers in parts]})
    for place, name in enumerate(("base", "a", "b")):
        stacked = {key: value for key, value in models[name].items() if ".layers." not in key}
        for i, layers in enumerate(parts):
            for key in INNER:
                stacked[f"net.layers.{i}.{key}"] = models[name][f"net.layers.{layers[place]}.{key}"].clone()
        save(f"stacked_{name}", stacked)
    whole = {**recipe, "base_model": "stacked_base", "models": [{"model": "stacked_a"}, {"model": "stacked_b"}]}
    expected = merged(whole, "whole")
    assert out.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(out[name], tensor), name
    for names in (("base", "b", "a"), ("base", "a")):
        slices = [part(0, 0, 0), part(*range(len(names)), names=names)]
        with pytest.raises(InputError, match="a statistic over the model needs the same models in"):
            merged({**recipe, "slices": slices}, "refused")
