"""Merges on disk to report on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import sta_kernels

SHAPES = {
    "embed": (130, 40),
    "layers.0.attn.in_proj_weight": (96, 40),
    "layers.0.norm.weight": (40,),
    "layers.1.attn.in_proj_weight": (96, 40),
    "layers.1.norm.weight": (40,),
}
N_TASKS = 3


class Family:
    """A base, three models and their importances, in memory and under a folder."""

    def __init__(self, folder: Path) -> None:
        generator = torch.Generator().manual_seed(11)

        def normal(shape: tuple[int, ...]) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        self.folder = folder
        self.base = {name: normal(shape) for name, shape in SHAPES.items()}
        self.models = [
            {name: x + 0.1 * normal(tuple(x.shape)) for name, x in self.base.items()} for _ in range(N_TASKS)
        ]
        self.importances = [{name: normal(shape).square() for name, shape in SHAPES.items()} for _ in range(N_TASKS)]
        for name, tensors in (("base", self.base), *((f"task{i}", model) for i, model in enumerate(self.models))):
            (folder / name).mkdir(parents=True)
            save_file(tensors, folder / name / "model.safetensors")
        for i, importance in enumerate(self.importances):
            save_file(importance, folder / f"task{i}" / "importance.safetensors")

    def recipe(self, method: str = "sta", **keys: Any) -> dict[str, Any]:
        """Over the files."""
        models: list[dict[str, Any]] = [{"model": str(self.folder / f"task{i}")} for i in range(N_TASKS)]
        for model in models if method == "sta" else ():
            model["parameters"] = {"importance": f"{model['model']}/importance.safetensors"}
        return {"merge_method": method, "base_model": str(self.folder / "base"), "models": models, **keys}

    def merge(self, out: Path, method: str = "sta", **keys: Any) -> Path:
        """To a folder."""
        sta_kernels.merge_checkpoints(self.recipe(method, **keys), out)
        return out


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Not to be changed."""
    return Family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="session")
def merged(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merge by STA; not to be changed."""
    return family.merge(tmp_path_factory.mktemp("merges") / "merged")
