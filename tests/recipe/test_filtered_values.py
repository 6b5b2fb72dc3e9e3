"""Values by filter, where no value serves a tensor of no name: each tensor has its own, and that is enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import sta_kernels as sk
from sta_kernels.recipe import Recipe


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """Base and one model of two tensors."""
    for seed, name in enumerate(("base", "model")):
        generator = torch.Generator().manual_seed(seed)
        (tmp_path / name).mkdir()
        tensors = {tensor: torch.randn(4, 3, generator=generator) for tensor in ("mlp.weight", "attn.weight")}
        save_file(tensors, tmp_path / name / "model.safetensors")
    return {
        "merge_method": "slerp",
        "base_model": str(tmp_path / "base"),
        "models": [{"model": str(tmp_path / "model")}],
    }


def by_filter(mlp: Any, attn: Any) -> list[dict[str, Any]]:
    return [{"filter": "mlp", "value": mlp}, {"filter": "attn", "value": attn}]


def test_a_required_value_by_filters_that_find_every_tensor(recipe: dict[str, Any], tmp_path: Path):
    sk.merge_checkpoints({**recipe, "parameters": {"t": by_filter(0, 1)}}, tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name, folder in (("mlp.weight", "base"), ("attn.weight", "model")):
        assert torch.equal(merged[name], load_file(tmp_path / folder / "model.safetensors")[name])


def test_a_required_value_that_a_tensor_lacks(recipe: dict[str, Any], tmp_path: Path):
    recipe = {**recipe, "parameters": {"t": {"filter": "mlp", "value": 0}}}
    with pytest.raises(sk.InputError, match=r"attn.weight: slerp: t is required"):
        sk.merge_checkpoints(recipe, tmp_path / "out")


def test_values_that_go_together_in_every_tensor(recipe: dict[str, Any], tmp_path: Path):
    """A density of 0.1 stands beside the default epsilon in no tensor."""
    parameters = {"density": [{"filter": "mlp", "value": 0.5}, {"filter": "attn", "value": 0.1}, {"value": 0.1}]}
    parameters["epsilon"] = by_filter(0.1, 0.05)
    sk.merge_checkpoints({**recipe, "merge_method": "della", "parameters": parameters}, tmp_path / "out")


def test_a_value_for_all_is_refused_when_the_recipe_is_read(recipe: dict[str, Any]):
    with pytest.raises(sk.InputError, match="sta: keep: 4 entries of 1"):
        Recipe.parse({**recipe, "merge_method": "sta", "parameters": {"keep": 4, "measure": "amp"}})
    with pytest.raises(sk.InputError, match="slerp: t is required"):
        Recipe.parse(recipe)


def test_roles_by_values_of_all_tensors(recipe: dict[str, Any]):
    measured = {**recipe, "merge_method": "sta", "parameters": {"measure": by_filter("amp", "amp")}}
    assert Recipe.parse({**measured, "parameters": {"measure": "amp"}}).roles.importance is False
    assert Recipe.parse(measured).roles.base
