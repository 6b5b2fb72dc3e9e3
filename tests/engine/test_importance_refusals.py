"""Importances below zero and statistics that overflow are refused by file and tensor, whatever is taken over what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from refusing import change, described, refused
from safetensors.torch import load_file

import sta_kernels as sk
from sta_kernels.engine import merge_checkpoints
from sta_kernels.errors import InputError

SIGNLESS = [
    ("sta", {}),
    ("sta", {"measure": "lp_amp"}),
    ("sta", {"normalise": "mean"}),
    ("sta", {"scope": "block"}),
    ("sta", {"scope": "block", "normalise": "mean"}),
    ("sta_forget", {}),
    ("sta_forget", {"measure": "lp_amp"}),
    ("sta_forget", {"only_added": True}),
    ("fisher", {}),
    ("fisher", {"epsilon_of": "absolute"}),
    ("tatr", {}),
]


@pytest.mark.parametrize(("method", "parameters"), SIGNLESS)
def test_a_single_negative_importance(own: Any, method: str, parameters: dict[str, Any], tmp_path: Path) -> None:
    """Of all entries one, which no sum and no rank shows; of files and of state dicts."""
    recipe, folder = own
    path = folder / "model0" / "importance.safetensors"
    importance = load_file(path)["layers.1.attn.in_proj_weight"]
    importance[3, 2] = -0.25
    change(path, layers__1__attn__in_proj_weight=importance)
    recipe = {**recipe, "merge_method": method, "parameters": parameters}
    if method == "sta_forget" and not parameters.get("only_added"):
        recipe["models"] = recipe["models"][:1]
    if method == "fisher":
        del recipe["base_model"]
    name = "'layers.1.attn.in_proj_weight'"
    refused(recipe, tmp_path / "out", str(path), name, "down to -0.25; an importance is never negative")
    assert not (tmp_path / "out").exists()
    models, importances = (
        [load_file(folder / f"model{i}" / f"{file}.safetensors") for i in range(len(recipe["models"]))]
        for file in ("model", "importance")
    )
    base = None if method == "fisher" else load_file(folder / "base" / "model.safetensors")
    with pytest.raises(InputError, match=rf"importances\[0\]: {name} goes down to -.*is this a model"):
        sk.merge(base, models, method=method, importances=importances, **parameters)


@pytest.mark.parametrize("scope", ["tensor", "block"])
def test_a_negative_importance_where_a_file_says_so(own: Any, scope: str, tmp_path: Path) -> None:
    recipe, folder = own
    path = folder / "model0" / "importance.safetensors"
    importance = load_file(path)["layers.1.attn.in_proj_weight"]
    importance[3, 2] = -1
    change(path, layers__1__attn__in_proj_weight=importance)
    described(path, lambda x: x)
    recipe = {**recipe, "parameters": {"normalise": "mean", "scope": scope}}
    refused(recipe, tmp_path / "out", str(path), "'layers.1.attn.in_proj_weight'", "down to -1;")


@pytest.mark.parametrize(("value", "said"), [(1e25, "(lp_amp) overflows float32"), (float("nan"), "is nan at [1, 4]")])
def test_a_statistic_over_a_layer_names_the_tensor(own: Any, value: float, said: str, tmp_path: Path) -> None:
    recipe, folder = own
    path = folder / "model1" / "model.safetensors"
    large = load_file(path)["layers.0.attn.in_proj_weight"]
    large[1, 4] = value
    change(path, layers__0__attn__in_proj_weight=large.float())
    parameters = {"measure": "lp_amp", "scope": "block"}
    recipe = {**recipe, "parameters": parameters}
    refused(recipe, tmp_path / "out", "model1", "'layers.0.attn.in_proj_weight'", said)
    merge_checkpoints(recipe, tmp_path / "out", allow_nonfinite=True)
    models, importances = (
        [load_file(folder / f"model{i}" / f"{file}.safetensors") for i in range(3)] for file in ("model", "importance")
    )
    base = load_file(folder / "base" / "model.safetensors")
    with pytest.raises(InputError, match=r"finetuned\[1\]: 'layers.0.attn.in_proj_weight'") as caught:
        sk.merge(base, models, importances=importances, **parameters)
    assert said in str(caught.value)
