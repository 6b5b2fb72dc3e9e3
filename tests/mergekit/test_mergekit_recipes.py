"""What stands in a recipe beside methods: slices, modules, adapters, dtypes, heads; run by both."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment
from mergekit_checkpoints import LLAMA, Family, read_checkpoint, write_checkpoint, write_llama
from mergekit_compare import ULPS
from mergekit_recipes import WEIGHT, Range
from safetensors.torch import save_file

import sta_kernels as sk

if TYPE_CHECKING:
    from conftest import Mergekit

pytestmark = pytest.mark.filterwarnings("ignore:.*matches no merged tensor")
LAYERS = LLAMA["num_hidden_layers"]
FILTERS = ("self_attn", "q_proj", "mlp", "layers.1.", "layers.2.mlp", "lm_head", "norm")


@dataclass
class Results:
    """What the two wrote."""

    ours: Path
    theirs: Path

    def check(self, *, ulps: float = ULPS, floor: float = 0.5, without: Collection[str] = ()) -> None:
        """Same names; entries within some units in the last place, of ``floor`` where they are smaller.

        Names ``without`` which the result is here are mergekit's alone.
        """
        ours, theirs = read_checkpoint(self.ours), read_checkpoint(self.theirs)
        assert theirs.keys() >= set(without)
        theirs = {name: tensor for name, tensor in theirs.items() if name not in without}
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert ours[name].dtype == tensor.dtype
            first, second = ours[name].double().numpy(), tensor.double().numpy()
            spacing = np.maximum(np.abs(second), floor) * torch.finfo(tensor.dtype).eps
            assert (np.abs(first - second) <= ulps * spacing).all(), name

    def configs(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Both `config.json`."""
        found = [json.loads((folder / "config.json").read_text()) for folder in (self.ours, self.theirs)]
        return found[0], found[1]


def run_both(recipe: Mapping[str, Any], mergekit: Mergekit, folder: Path, **options: Any) -> Results:
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(dict(recipe), sort_keys=False))
    mergekit.merge(path, folder / "theirs", **options)
    sk.merge_checkpoints(path, folder / "ours", threads=1)
    return Results(folder / "ours", folder / "theirs")


def drawn(values: Range, rng: random.Random) -> Any:
    """A number, a gradient, or filters in front of one."""
    if rng.random() < 0.5:
        return values.draw(rng)
    return [{"filter": rng.choice(FILTERS), "value": values.draw(rng)}, {"value": values.draw(rng)}]


def draw_slices(method: str, family: Family, rng: random.Random) -> dict[str, Any]:
    """One to four slices, of any layers, with values at any level."""
    key, values, least, most = {
        "passthrough": ("scale", Range(0.5, 1.5), 1, 1),
        "linear": ("weight", WEIGHT, 1, 3),
        "task_arithmetic": ("weight", WEIGHT, 1, 3),
        "slerp": ("t", Range(0.0, 1.0), 1, 1),
    }[method]
    slices = []
    count = rng.randint(least, most)
    for _ in range(rng.randint(1, 4)):
        length = rng.randint(1, LAYERS)
        based = method in ("task_arithmetic", "slerp")
        models = [*rng.sample(family.models, count), *([family.base] if based else [])]
        rng.shuffle(models)
        sources = []
        for model in models:
            start = rng.randint(0, LAYERS - length)
            source: dict[str, Any] = {"model": str(model), "layer_range": [start, start + length]}
            if key != "t" and rng.random() < 0.4 and not (based and model == family.base):
                source["parameters"] = {key: drawn(values, rng)}
            sources.append(source)
        slices.append({"sources": sources})
        if rng.random() < 0.4:
            slices[-1]["parameters"] = {key: drawn(values, rng)}
    recipe = {"merge_method": method, "slices": slices, "dtype": "float32", "parameters": {key: drawn(values, rng)}}
    if method in ("task_arithmetic", "slerp"):
        recipe["base_model"] = str(family.base)
    return recipe


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("method", ["passthrough", "linear", "task_arithmetic", "slerp"])
def test_slices(method: str, seed: int, mergekit: Mergekit, families: dict[str, Family], tmp_path: Path):
    recipe = draw_slices(method, families["llama"], random.Random(f"{method} {seed}"))
    results = run_both(recipe, mergekit, tmp_path)
    results.check(ulps=80 if method == "slerp" else ULPS)
    ours, theirs = results.configs()
    assert ours["num_hidden_layers"] == theirs["num_hidden_layers"]


@pytest.mark.parametrize("seed", range(3))
def test_module_of_slices_or_models(seed: int, mergekit: Mergekit, families: dict[str, Family], tmp_path: Path):
    rng = random.Random(seed)
    recipe = draw_slices("linear", families["llama"], rng)
    recipe["modules"] = {"default": {"slices": recipe.pop("slices"), "parameters": {"weight": drawn(WEIGHT, rng)}}}
    run_both(recipe, mergekit, tmp_path / "slices").check()
    models = [{"model": str(path)} for path in families["llama"].models[:2]]
    recipe["modules"] = {"default": {"models": models, "parameters": {"weight": drawn(WEIGHT, rng)}}}
    run_both(recipe, mergekit, tmp_path / "models").check()


@pytest.mark.parametrize("family", ["llama", "bfloat16"])
def test_written_dtype(family: str, mergekit: Mergekit, families: dict[str, Family], tmp_path: Path):
    """float32 inside and bfloat16 outside: an entry next to a rounding boundary may fall on either side."""
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(families[family].base),
        "models": [{"model": str(path)} for path in families[family].models[:3]],
        "parameters": {"weight": 0.3},
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }
    results = run_both(recipe, mergekit, tmp_path)
    results.check(ulps=1, floor=0)
    ours, theirs = (read_checkpoint(folder) for folder in (results.ours, results.theirs))
    other = sum(int((ours[name] != theirs[name]).sum()) for name in ours)
    assert other <= 1e-3 * sum(tensor.numel() for tensor in ours.values())


def test_base_that_is_averaged_in(mergekit: Mergekit, families: dict[str, Family], tmp_path: Path):
    """A base that is not listed is one more model of a linear merge, with the global weight."""
    family = families["llama"]
    recipe = {
        "merge_method": "linear",
        "base_model": str(family.base),
        "models": [{"model": str(family.models[0]), "parameters": {"weight": 2}}, {"model": str(family.models[1])}],
        "parameters": {"weight": 0.5},
        "dtype": "float32",
    }
    results = run_both(recipe, mergekit, tmp_path)
    results.check()
    name = "model.norm.weight"
    expected = (2 * family.of(family.models[0])[name] + 0.5 * family.of(family.models[1])[name]) / 3
    expected = expected + 0.5 * family.of(family.base)[name] / 3
    assert torch.allclose(read_checkpoint(results.ours)[name], expected, atol=1e-6)


@pytest.mark.parametrize("where", ["model", "base"])
def test_adapter(where: str, mergekit: Mergekit, tmp_path: Path):
    """A LoRA adapter, with other ranks for some modules, on embeddings too, and a head of its own."""
    family = write_llama(tmp_path / "models", seed=23)
    adapter = tmp_path / "adapter"
    generator = torch.Generator().manual_seed(29)
    shapes = family.of(family.base)
    tensors: dict[str, torch.Tensor] = {}
    for name in shapes:
        if name.endswith(("q_proj.weight", "down_proj.weight")):
            rank = 3 if "down" in name else 4
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{stem}.lora_A.weight"] = 0.2 * torch.randn((rank, shapes[name].shape[1]), generator=generator)
            tensors[f"{stem}.lora_B.weight"] = 0.2 * torch.randn((shapes[name].shape[0], rank), generator=generator)
    rows, columns = shapes["model.embed_tokens.weight"].shape
    stem = "base_model.model.model.embed_tokens.lora_embedding"
    tensors[f"{stem}_A"] = 0.2 * torch.randn((4, rows), generator=generator)
    tensors[f"{stem}_B"] = 0.2 * torch.randn((columns, 4), generator=generator)
    tensors["base_model.model.lm_head.weight"] = torch.randn((rows, columns), generator=generator)
    adapter.mkdir()
    save_file(tensors, adapter / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 6, "rank_pattern": {"down_proj": 3},
        "alpha_pattern": {"down_proj": 9}, "target_modules": ["q_proj", "down_proj", "embed_tokens"],
        "modules_to_save": ["lm_head"], "base_model_name_or_path": str(family.base), "bias": "none",
        "fan_in_fan_out": False, "use_rslora": False, "inference_mode": True,
    }  # fmt: skip
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    with_adapter = f"{family.base}+{adapter}"
    plain = str(family.models[0])
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": plain if where == "model" else with_adapter,
        "models": [{"model": with_adapter if where == "model" else plain}, {"model": str(family.models[1])}],
        "parameters": {"weight": [0.7, 1.1]},
        "dtype": "float32",
    }
    run_both(recipe, mergekit, tmp_path / "run", lora_merge_cache=str(tmp_path / "cache")).check()


@pytest.mark.parametrize("heads", ["none", "one's own"])
def test_head(heads: str, mergekit: Mergekit, families: dict[str, Family], tmp_path: Path):
    """No head is written where no model has one; all have one, and it is merged as any tensor."""
    family = families["tied" if heads == "none" else "llama"]
    recipe = {
        "merge_method": "linear",
        "models": [{"model": str(path)} for path in family.models[:2]],
        "parameters": {"weight": 1},
        "dtype": "float32",
    }
    results = run_both(recipe, mergekit, tmp_path)
    results.check()
    assert ("lm_head.weight" in read_checkpoint(results.ours)) == (heads != "none")


@pytest.mark.filterwarnings("ignore:.*tied to 'model.embed_tokens")
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "slerp"])
def test_head_of_a_tied_model(method: str, mergekit: Mergekit, families: dict[str, Family], tmp_path: Path):
    """The base stores a head and a model is tied: its embedding is its head, with the values of the head's name."""
    base, tied = families["llama"].base, families["tied"].models
    models = [*tied[:1], *(families["llama"].models[1:2] if method != "slerp" else ())]
    head = [{"filter": "lm_head", "value": 0.8}, {"value": 0.3}]
    entries: list[dict[str, Any]] = [{"model": str(path)} for path in models]
    recipe: dict[str, Any] = {"merge_method": method, "base_model": str(base), "dtype": "float32"}
    if method == "slerp":
        recipe["parameters"] = {"t": head}
    else:
        for entry in entries:
            entry["parameters"] = {"weight": head}
    if method == "linear":
        entries.insert(0, {"model": str(base), "parameters": {"weight": 1}})
    run_both({**recipe, "models": entries}, mergekit, tmp_path).check(ulps=80 if method == "slerp" else ULPS)


@pytest.mark.filterwarnings("ignore:.*ties 'lm_head.weight'")
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties"])
def test_head_of_a_tied_base(method: str, mergekit: Mergekit, families: dict[str, Family], tmp_path: Path):
    """A model repeats its embedding as a head: all but the head, which is not written here, is the same."""
    family = families["tied"]
    tensors = dict(family.of(family.models[0]))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    write_checkpoint(tmp_path / "repeated", tensors, json.loads((family.models[0] / "config.json").read_text()))
    models = [family.base] if method == "linear" else []
    models += [tmp_path / "repeated", family.models[1]]
    recipe = {
        "merge_method": method,
        "base_model": str(family.base),
        "models": [{"model": str(path)} for path in models],
        "parameters": {"weight": [0.4, 0.9]},
        "dtype": "float32",
    }
    results = run_both(recipe, mergekit, tmp_path / "run")
    results.check(without={"lm_head.weight"})
    theirs = read_checkpoint(results.theirs)
    assert torch.equal(theirs["lm_head.weight"], theirs["model.embed_tokens.weight"])


TOKENIZER = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"},
}  # fmt: skip
CONVERSATION = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": " Why? "}]


@pytest.mark.filterwarnings("ignore:chat_template")
@pytest.mark.parametrize("given", ["auto", "chatml", "{% for message in messages %}{{ message.content }}{% endfor %}"])
def test_chat_template(given: str, mergekit: Mergekit, tmp_path: Path):
    """The same conversation as text, whichever way the template is given."""
    family = write_llama(tmp_path / "models", seed=31)
    for folder, template in zip((family.base, *family.models), ("old", "new", "old", "new", "new"), strict=True):
        text = f"{template}{{% for message in messages %}}{{{{ message.role }}}}{{% endfor %}}"
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": text, "unk_token": "[UNK]"}
        (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(family.base),
        "models": [{"model": str(path)} for path in family.models],
        "parameters": {"weight": 0.3},
        "dtype": "float32",
        "chat_template": given,
    }
    results = run_both(recipe, mergekit, tmp_path / "run", copy_tokenizer=True)
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)  # as transformers has it
    ours, theirs = ((folder / "chat_template.jinja").read_text() for folder in (results.ours, results.theirs))
    for opens in (False, True):
        said = [
            environment.from_string(text).render(messages=CONVERSATION, add_generation_prompt=opens)
            for text in (ours, theirs)
        ]
        assert said[0] == said[1]
        assert ("<|im_start|>user\n Why? <|im_end|>" in said[0]) == (given == "chatml")
        assert said[0].startswith("new") == (given == "auto")
