"""Small checkpoints on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sta_kernels.engine import memory

SHAPES = {
    "embed.weight": (700, 33),
    "layers.0.attn.in_proj_weight": (96, 40),
    "layers.0.norm.weight": (40,),
    "layers.1.attn.in_proj_weight": (96, 40),
    "layers.1.norm.weight": (40,),
    "head.scale": (),
    "empty": (0, 4),
}


WITH_IMPORTANCE = frozenset(("sta", "sta_forget", "fisher", "tatr"))


class Models:
    """A base, three fine-tuned models and their importances, in memory and under a folder."""

    def __init__(self, folder: Path, dtype: torch.dtype, importance_dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(7)

        def normal(shape: tuple[int, ...], scale: float) -> torch.Tensor:
            return torch.randn(shape, generator=generator) * scale

        self.folder = folder
        self.base = {name: normal(shape, 0.5).to(dtype) for name, shape in SHAPES.items()}
        self.base["steps"] = torch.tensor([3, 4], dtype=torch.int64)
        self.models = []
        self.importances = []
        for _ in range(3):
            model = {name: (self.base[name].float() + normal(shape, 0.1)).to(dtype) for name, shape in SHAPES.items()}
            self.models.append({**model, "steps": self.base["steps"].clone()})
            self.importances.append(
                {name: normal(shape, 1.0).square().to(importance_dtype) for name, shape in SHAPES.items()}
            )
        save(folder / "base", self.base)
        (folder / "base" / "config.json").write_text('{"model_type": "toy", "torch_dtype": "bfloat16"}\n')
        (folder / "base" / "tokenizer.json").write_bytes(bytes(range(256)) * 9000)
        for i in range(3):
            save(folder / f"model{i}", self.models[i])
            save_file(self.importances[i], folder / f"model{i}" / "importance.safetensors")

    def recipe(self, method: str = "sta", *, models: int = 3, **keys: Any) -> dict[str, Any]:
        """A recipe over the files."""
        entries: list[dict[str, Any]] = []
        for i in range(models):
            path = str(self.folder / f"model{i}")
            entry: dict[str, Any] = {"model": path}
            if method in WITH_IMPORTANCE:
                entry["parameters"] = {"importance": f"{path}/importance.safetensors"}
            entries.append(entry)
        return {"merge_method": method, "base_model": str(self.folder / "base"), "models": entries, **keys}


def save(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="session")
def float_models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """All in float32."""
    return Models(tmp_path_factory.mktemp("float32"), torch.float32, torch.float32)


@pytest.fixture(scope="session")
def mixed_models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Weights in bfloat16, importances in float32."""
    return Models(tmp_path_factory.mktemp("mixed"), torch.bfloat16, torch.float32)


@pytest.fixture
def shrink_buffers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes workers' buffers and tiles so small that small tensors are cut; the least memory limit would hold them."""

    def shrink(arena: int, tile: int = 4 << 20) -> None:
        for kind, sizes in memory.SIZES.items():
            smaller = replace(sizes, arena=arena, tile=tile, flow=tile if sizes.flow else 0)
            monkeypatch.setitem(memory.SIZES, kind, smaller)

    return shrink


@pytest.fixture
def own(mixed_models: Any, tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """A recipe over files that a test may change, and their folder."""
    folder = tmp_path / "in"
    shutil.copytree(mixed_models.folder, folder)
    moved = type(mixed_models).__new__(type(mixed_models))
    moved.folder = folder
    return moved.recipe("sta"), folder
