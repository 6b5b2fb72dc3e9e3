"""``sta`` inside mergekit gives the bits of this project's own command."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mergekit_checkpoints import Family, write_llama
from safetensors.torch import load_file, save_file

import sta_kernels as sk


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Llama-like models with importances beside them; the final norm has none, and nobody has trained it."""
    family = write_llama(tmp_path_factory.mktemp("plugin"), seed=5)
    base = load_file(family.base / "model.safetensors")
    for seed, model in enumerate(family.models):
        tensors = load_file(model / "model.safetensors")
        tensors["model.norm.weight"] = base["model.norm.weight"].clone()
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
        generator = torch.Generator().manual_seed(seed)
        scores = {
            name: torch.randn(tensor.shape, generator=generator).square()
            for name, tensor in tensors.items()
            if name != "model.norm.weight"
        }
        save_file(scores, model / "importance.safetensors")
    return family


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"p": 0.6, "lambda": 0.8}, {"p": 0.6, "lambda": 0.8}),
        ({"keep": 2, "mean": True}, {"keep": 2, "normalise": "mean"}),
        ({"amplitude": True}, {"measure": "amp"}),
    ],
)
def test_same_bits_as_our_own_command(
    theirs: dict[str, Any], ours: dict[str, Any], family: Family, mergekit: Any, tmp_path: Path
) -> None:
    recipe: dict[str, Any] = {"merge_method": "sta", "base_model": str(family.base), "dtype": "float32"}
    weights = [0.5, 1.0, 1.5, 1.0]
    models = [
        {"model": str(model), "parameters": {"weight": weight}}
        for model, weight in zip(family.models, weights, strict=True)
    ]
    file = tmp_path / "recipe.yml"
    file.write_text(yaml.safe_dump({**recipe, "models": models, "parameters": theirs}))
    mergekit.ask("plug")
    mergekit.merge(file, tmp_path / "out")
    for entry in models:
        if "measure" not in ours:
            entry["parameters"]["importance"] = f"{entry['model']}/importance.safetensors"  # type: ignore[index]
    sk.merge_checkpoints({**recipe, "models": models, "parameters": ours}, tmp_path / "own")
    (written,) = (tmp_path / "out").glob("*.safetensors")
    got, want = load_file(written), load_file(tmp_path / "own" / "model.safetensors")
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert torch.equal(got[name], tensor), name


def test_the_command_names_an_importance_that_is_missing(
    family: Family, mergekit: Any, pytestconfig: Any, tmp_path: Path
) -> None:
    recipe = {
        "merge_method": "sta",
        "base_model": str(family.models[0]),
        "models": [{"model": str(family.base)}, {"model": str(family.models[1])}],
        "dtype": "float32",
    }
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(recipe))
    python = pytestconfig.getoption("mergekit_python")
    command = [python, "-m", "sta_kernels.integrations.mergekit", "recipe.yml", "out", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode != 0
    assert f"{family.base}: no importance.safetensors in its folder" in done.stderr
