"""Heads that one model stores and another leaves out, since they are its embedding."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sta_kernels.engine import Manifest, merge_checkpoints
from sta_kernels.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*(ties 'lm_head|tied to ')")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Tensors = dict[str, torch.Tensor]
Save = Callable[..., Tensors]


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Save:
    """Writes a model into the working directory: its head is ``none``, ``equal`` to the embedding, or its ``own``."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, head: str, tied: bool | None = None, **config: Any) -> Tensors:
        config["num_hidden_layers"] = 1
        generator = torch.Generator().manual_seed(sum(name.encode()))
        tensors = {EMBEDDING: torch.randn(9, 4, generator=generator), "model.norm.weight": torch.ones(4)}
        tensors["model.layers.0.mlp.weight"] = torch.randn(5, 4, generator=generator)
        if head != "none":
            tensors[HEAD] = torch.randn(9, 4, generator=generator) if head == "own" else tensors[EMBEDDING].clone()
        Path(name).mkdir()
        save_file(tensors, f"{name}/model.safetensors")
        if tied is not None:
            config["tie_word_embeddings"] = tied
        Path(name, "config.json").write_text(json.dumps(config))
        return tensors

    return write


def recipe_of(*models: str, **keys: Any) -> dict[str, Any]:
    entries = [{"model": model} for model in models]
    weight = {"weight": 0.5}
    return {"merge_method": "task_arithmetic", "base_model": "base", "models": entries, "parameters": weight, **keys}


def merged(recipe: dict[str, Any], out: str = "out") -> tuple[Tensors, tuple[str, ...]]:
    result = merge_checkpoints(recipe, out, threads=1)
    assert isinstance(result, Manifest)
    return load_file(Path(out, "model.safetensors")), tuple(result.notes)


def halves(base: torch.Tensor, *models: torch.Tensor) -> torch.Tensor:
    return base + sum(0.5 * (model - base) for model in models)


@pytest.mark.parametrize("tied", [True, None])
def test_a_head_that_the_base_ties_stays_tied(save: Save, tied: bool | None):
    base, a, b = save("base", "none", tied), save("a", "equal", tied), save("b", "none", tied)
    out, notes = merged(recipe_of("a", "b"))
    assert out.keys() == base.keys()
    assert torch.equal(out[EMBEDDING], halves(base[EMBEDDING], a[EMBEDDING], b[EMBEDDING]))
    assert f"base: ties {HEAD!r} to {EMBEDDING!r}, so the result does too" in notes


def test_a_head_that_was_untied_is_not_lost_unseen(save: Save):
    base, a = save("base", "none", True), save("a", "own", False)
    with pytest.raises(InputError, match=rf"^a: '{HEAD}' and '{EMBEDDING}' differ, but base ties them; `exclude: "):
        merged(recipe_of("a"))
    out, _ = merged(recipe_of("a", exclude=[HEAD]))
    assert out.keys() == base.keys()
    assert torch.equal(out[EMBEDDING], halves(base[EMBEDDING], a[EMBEDDING]))


@pytest.mark.parametrize("head", ["own", "equal"])
def test_of_a_tied_model_the_head_is_its_embedding(save: Save, head: str):
    base, a, b = save("base", head), save("a", "none", True), save("b", "own")
    out, notes = merged(recipe_of("a", "b"))
    assert torch.equal(out[HEAD], halves(base[HEAD], a[EMBEDDING], b[HEAD]))
    assert torch.equal(out["model.norm.weight"], torch.ones(4))
    assert notes.count(f"a: no {HEAD!r}; it is tied to {EMBEDDING!r}, which is taken") == 1


def test_its_values_go_by_the_heads_name(save: Save):
    base, a = save("base", "own"), save("a", "none", True)
    recipe = recipe_of("a")
    del recipe["parameters"]
    recipe["models"][0]["parameters"] = {"weight": [{"filter": "lm_head", "value": 2}, {"value": 0}]}
    out, notes = merged(recipe)
    assert torch.equal(out[HEAD], base[HEAD] + 2 * (a[EMBEDDING] - base[HEAD]))
    assert torch.equal(out[EMBEDDING], base[EMBEDDING])
    assert not [note for note in notes if "filter" in note]


@pytest.mark.parametrize("nested", [False, True])
def test_a_head_that_is_missing_though_it_is_not_tied_is_refused(save: Save, nested: bool):
    untied: dict[str, Any] = {"text_config": {"tie_word_embeddings": False}} if nested else {"tied": False}
    save("base", "own")
    save("a", "none", **untied)
    with pytest.raises(InputError, match=f"^a: no entry '{HEAD}', which base has"):
        merged(recipe_of("a"))
    save("other", "none", **untied)
    with pytest.raises(InputError, match=f"^base: '{HEAD}' is not in other"):
        merged(recipe_of("base", base_model="other"))


def test_embeddings_of_another_shape_are_no_head(save: Save):
    save("base", "own")
    a = save("a", "none", True)
    save_file({**a, EMBEDDING: torch.ones(7, 4)}, "a/model.safetensors")
    with pytest.raises(InputError, match=f"^a: no entry '{HEAD}', which base has"):
        merged(recipe_of("a", exclude=[EMBEDDING]))


def test_what_several_parts_share_is_the_head(save: Save):
    """An encoder and a decoder with embeddings of their own names, tied to a shared one."""
    save("base", "own")
    a = save("a", "none", True)
    parts = {"encoder.embed_tokens.weight": torch.ones(9, 4), "shared.weight": torch.full((9, 4), 2.0)}
    base = {**load_file("base/model.safetensors"), **parts}
    save_file(base, "base/model.safetensors")
    save_file({**a, **parts}, "a/model.safetensors")
    out, _ = merged(recipe_of("a"))
    assert torch.equal(out[HEAD], base[HEAD] + 0.5 * (2 - base[HEAD]))


def test_importances_are_tied_as_their_models_are(save: Save):
    """One file has no importance of the head, whose embedding's stands for it."""
    for name, head in (("base", "own"), ("a", "none"), ("b", "own")):
        stored = {key: value.abs() for key, value in save(name, head).items()}
        save_file(stored, f"{name}/importance.safetensors")
    recipe = recipe_of("a", "b", merge_method="sta", parameters={"keep": 1})
    for entry in recipe["models"]:
        entry["parameters"] = {"importance": f"{entry['model']}/importance.safetensors"}
    out, _ = merged(recipe)
    base, a, b = (load_file(f"{name}/model.safetensors") for name in ("base", "a", "b"))

    def scaled(importance: torch.Tensor) -> torch.Tensor:
        return (importance - importance.min()) / (importance.max() - importance.min())

    of_a = scaled(a[EMBEDDING].abs()) > scaled(b[HEAD].abs())
    expected = base[HEAD] + torch.where(of_a, a[EMBEDDING] - base[HEAD], b[HEAD] - base[HEAD])
    assert torch.equal(out[HEAD], expected)


def test_in_slices_the_last_ones_head_is_its_embedding(save: Save):
    a, b = save("a", "none", True), save("b", "own")

    def stack(*names: str) -> dict[str, Any]:
        sources = [[{"model": name, "layer_range": [0, 1]}] for name in names]
        return {"merge_method": "passthrough", "slices": [{"sources": each} for each in sources]}

    out, _ = merged(stack("b", "a"))
    assert torch.equal(out[HEAD], a[EMBEDDING])
    assert torch.equal(out[EMBEDDING], b[EMBEDDING])
    out, _ = merged(stack("a", "b", "a"), "other")
    assert HEAD not in out
    assert torch.equal(out[EMBEDDING], a[EMBEDDING])
