"""`split` and `exclude`: stacked experts are tensors of their own, and what is left out is the base's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sta_kernels.engine import Manifest, merge_checkpoints

Tensors = dict[str, torch.Tensor]
STACKED = "layers.0.mlp.experts.gate_up_proj"
ROUTER = "layers.0.mlp.gate.weight"
EXPERTS = 4


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensors]:
    """A base and two models with experts stacked in one tensor; importances beside the models."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(11)
    found = {}
    for name in ("base", "a", "b"):
        found[name] = {
            STACKED: torch.randn(EXPERTS, 6, 5, generator=generator),
            ROUTER: torch.randn(EXPERTS, 5, generator=generator),
        }
        Path(name).mkdir()
        save_file(found[name], f"{name}/model.safetensors")
        # Experts that were seen more often have larger gradients: as one tensor, they would set the scale of all.
        scale = torch.tensor([1.0, 100.0, 0.01, 7.0]).reshape(-1, 1, 1)
        importance = torch.rand(EXPERTS, 6, 5, generator=generator) * (scale if name == "a" else 1)
        save_file({STACKED: importance, ROUTER: importance[:, 0].contiguous()}, f"{name}/importance.safetensors")
    return found


def recipe(method: str, **keys: Any) -> dict[str, Any]:
    models: list[dict[str, Any]] = [{"model": name, "parameters": {}} for name in "ab"]
    for model in models if method == "sta" else ():
        model["parameters"]["importance"] = f"{model['model']}/importance.safetensors"
    return {"merge_method": method, "base_model": "base", "models": models, **keys}


def merged(what: dict[str, Any], out: str) -> tuple[Tensors, Manifest]:
    result = merge_checkpoints(what, out)
    assert isinstance(result, Manifest)
    return load_file(Path(out, "model.safetensors")), result


def save_as_experts(models: dict[str, Tensors]) -> None:
    """The same models with one tensor per expert."""
    for name in models:
        for file in ("model", "importance"):
            stored = load_file(f"{name}/{file}.safetensors")
            experts = {f"experts.{i}": stored[STACKED][i].clone() for i in range(EXPERTS)}
            save_file({**experts, ROUTER: stored[ROUTER]}, f"{name}/{file}.safetensors")


@pytest.mark.parametrize("method", ["sta", "ties"])
def test_stacked_experts_are_merged_as_if_each_were_a_tensor(method: str, models: dict[str, Tensors]):
    values: Any = {"p": 0.4} if method == "sta" else {"density": 0.3, "weight": 1}
    what = recipe(method, parameters=values)
    whole, _ = merged(what, "whole")
    stacked, result = merged({**what, "split": {"*.experts.*": EXPERTS}}, "stacked")
    save_as_experts(models)
    single, _ = merged(what, "single")
    for i in range(EXPERTS):
        assert torch.equal(stacked[STACKED][i], single[f"experts.{i}"])
    assert not torch.equal(stacked[STACKED], whole[STACKED])
    assert torch.equal(stacked[ROUTER], whole[ROUTER])
    assert [record["name"] for record in result.tensors if record["tensor"] == STACKED] == [
        f"{STACKED}[{i}:{i + 1}]" for i in range(EXPERTS)
    ]


def test_what_is_excluded_is_the_bases_and_the_rest_is_not(models: dict[str, Tensors]):
    out, result = merged(recipe("task_arithmetic", exclude=["*.gate.weight"], parameters={"weight": 1}), "out")
    assert torch.equal(out[ROUTER], models["base"][ROUTER])
    assert not torch.equal(out[STACKED], models["base"][STACKED])
    assert result.copied == (ROUTER,)
