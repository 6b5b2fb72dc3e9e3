"""Checkpoints to be merged again and again, and five recipes that go through the engine by five ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

MODELS = 3
_WITH_IMPORTANCE = "sta"

RECIPES: dict[str, dict[str, Any]] = {
    "sta": {"merge_method": "sta", "parameters": {"p": 0.7}, "options": ["--out-shard-size", "3"]},
    "ties": {"merge_method": "ties", "parameters": {"density": 0.4}, "options": []},
    "linear": {
        "merge_method": "linear",
        "parameters": {"weight": 0.5, "normalize": True},
        "exclude": ["*.norm.weight"],
        "dtype": "float32",
        "options": ["--threads", "1"],
    },
    "model_stock": {"merge_method": "model_stock", "options": []},
    "lora": {"merge_method": "task_arithmetic", "parameters": {"weight": 0.3}, "options": []},
}
"""By name: keys of the recipe, and options of the command. ``--out-shard-size 3`` means a third of the result.

What each goes through: ranges of importances and a flow into several files; order statistics bracketed by a sample; a
flow of conversions and copies on one thread; sums over tensors, then a second pass; tiles in memory, for adapters are
added while a model is read.
"""


class Checkpoints:
    """A base, three models, importances and adapters under a folder.

    Args:
        folder: to be filled.
        megabytes: of each model, in bfloat16.
    """

    def __init__(self, folder: Path, megabytes: float) -> None:
        self.folder = folder
        rows = max(int(megabytes * 1e6 / 2 / 8 / 512), 1)
        self.shapes = {f"layers.{i}.mlp.weight": (rows, 512) for i in range(8)}
        self.shapes.update({f"layers.{i}.norm.weight": (512,) for i in range(8)})
        self._size = int(megabytes * 1e6)
        generator = torch.Generator().manual_seed(11)
        base = {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in self.shapes.items()}
        self._save("base", base)
        (folder / "base" / "tokenizer.json").write_bytes(bytes(range(256)) * 8000)
        for i in range(MODELS):
            noise = {name: torch.randn(x.shape, generator=generator) * 0.1 for name, x in base.items()}
            self._save(f"model{i}", {name: (x.float() + noise[name]).bfloat16() for name, x in base.items()})
            importance = {name: noise[name].square() for name in base}
            save_file(importance, folder / f"model{i}" / "importance.safetensors")
            self._adapter(folder / f"adapter{i}", generator)

    def _save(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        (self.folder / name).mkdir(parents=True)
        counted = {**tensors, "steps": torch.tensor([1, 2, 3])}
        save_file(counted, self.folder / name / "model.safetensors", metadata={"format": "pt"})
        (self.folder / name / "config.json").write_text('{"model_type": "toy", "torch_dtype": "bfloat16"}\n')

    def _adapter(self, folder: Path, generator: torch.Generator) -> None:
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
        factors = {}
        for name, (rows, columns) in ((n, s) for n, s in self.shapes.items() if len(s) == 2):
            module = f"base_model.model.{name.removesuffix('.weight')}"
            factors[f"{module}.lora_A.weight"] = torch.randn(4, columns, generator=generator)
            factors[f"{module}.lora_B.weight"] = torch.randn(rows, 4, generator=generator)
        save_file(factors, folder / "adapter_model.safetensors")

    def command(self, name: str, out: Path) -> list[str]:
        """Arguments of ``sta-kernels`` that merge by one of the recipes; its file is written beside the models."""
        keys = dict(RECIPES[name])
        options = list(keys.pop("options"))
        if "--out-shard-size" in options:
            at = options.index("--out-shard-size") + 1
            options[at] = str(self._size // int(options[at]) + 4096)
        entries = []
        for i in range(MODELS):
            path = str(self.folder / f"model{i}")
            entry: dict[str, Any] = {"model": f"{path}+{self.folder / f'adapter{i}'}" if name == "lora" else path}
            if name == _WITH_IMPORTANCE:
                entry["parameters"] = {"importance": f"{path}/importance.safetensors"}
            entries.append(entry)
        base = {} if name == "linear" else {"base_model": str(self.folder / "base")}
        recipe = self.folder / f"{name}.yaml"
        if not recipe.exists():
            recipe.write_text(json.dumps({**base, "models": entries, **keys}))
        return ["merge", str(recipe), str(out), "--quiet", *options]


def damage(data: bytearray, generator: np.random.Generator, page: int = 4096) -> None:
    """What a power cut leaves of bytes that were written and not synced: some pages are zeros."""
    pages = -(-len(data) // page)
    for index in np.flatnonzero(generator.random(pages) < 0.2):
        start = int(index) * page
        data[start : start + page] = bytes(len(data[start : start + page]))
