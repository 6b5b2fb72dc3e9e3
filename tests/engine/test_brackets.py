"""Order statistics of what streams by: whatever a sample tells, the result is that of counting every digit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sta_kernels.engine import merge_checkpoints
from sta_kernels.kernels.native_flow import can_flow
from sta_kernels.methods import bracket

pytestmark = pytest.mark.skipif(not can_flow(), reason="this system has no positioned reads")

SHAPE = (300, 401)
RECIPES = {
    "ties": ("ties", {"density": 0.2}, {}),
    "ties_model": ("ties", {"density": 0.37}, {"scope": "model"}),
    "breadcrumbs": ("breadcrumbs", {"density": 0.8, "gamma": 0.05}, {}),
    "pcb": ("pcb", {}, {"ratio": 0.1}),
}


def normal(generator: torch.Generator, deviation: float) -> torch.Tensor:
    return torch.randn(SHAPE, generator=generator) * deviation


def waves(generator: torch.Generator, deviation: float) -> torch.Tensor:
    """Most of what is large lies where no run of the sample does."""
    where = torch.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) % 4096 < 1024
    return torch.where(where, 0.01, 1.0) * normal(generator, deviation)


def steps(generator: torch.Generator, deviation: float) -> torch.Tensor:
    return (normal(generator, 2.0)).round() * deviation


def rising(generator: torch.Generator, deviation: float) -> torch.Tensor:
    return torch.linspace(0, deviation, SHAPE[0] * SHAPE[1]).reshape(SHAPE)


def constant(generator: torch.Generator, deviation: float) -> torch.Tensor:
    return torch.full(SHAPE, deviation)


KINDS = {
    "continuous": (normal, torch.float32),
    "tied": (normal, torch.bfloat16),
    "waves": (waves, torch.float32),
    "steps": (steps, torch.float32),
    "rising": (rising, torch.float32),
    "constant": (constant, torch.bfloat16),
}


def write(folder: Path, kind: str) -> list[str]:
    make, dtype = KINDS[kind]
    generator = torch.Generator().manual_seed(11)
    base = {f"layers.{i}.weight": torch.randn(SHAPE, generator=generator) * 0.02 for i in range(2)}
    base["norm"] = torch.ones(401)
    paths = [str(folder / name) for name in ("base", "a", "b")]
    for path in paths:
        Path(path).mkdir()
        changed = {
            name: value + (0 if path == paths[0] or name == "norm" else make(generator, 1e-4))
            for name, value in base.items()
        }
        save_file({name: value.to(dtype) for name, value in changed.items()}, f"{path}/model.safetensors")
    return paths


def merged(paths: list[str], recipe: str, out: Path) -> dict[str, torch.Tensor]:
    method, own, shared = RECIPES[recipe]
    models = [{"model": path, "parameters": own} for path in paths[1:]]
    given = {"merge_method": method, "base_model": paths[0], "models": models, "parameters": shared}
    merge_checkpoints(given, out, threads=2, max_memory="2GB", out_shard_size="1GB")
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_brackets_change_nothing(
    recipe: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shrink_buffers: Callable[..., None]
) -> None:
    """With little room, so that tables and lists overflow; with a sample that misses; with ties at every value."""
    paths = write(tmp_path, kind)
    shrink_buffers(160 << 10, tile=150 << 10)
    monkeypatch.setattr(bracket, "LEAST", 1 << 60)
    for module in ("sta_kernels.engine.runs", "sta_kernels.methods.groups"):
        monkeypatch.setattr(f"{module}.LEAST", 1 << 60)
    want = merged(paths, recipe, tmp_path / "digits")
    used: list[bool] = []
    end_of_pass = bracket.BracketAccumulator.end_of_pass

    def ends(self: Any) -> bool:
        ended = end_of_pass(self)
        used.append(not self._counts_digits)
        return ended

    monkeypatch.setattr(bracket.BracketAccumulator, "end_of_pass", ends)
    monkeypatch.setattr(bracket, "_SAMPLE", 1 << 14)
    for module in ("sta_kernels.engine.runs", "sta_kernels.methods.groups"):
        monkeypatch.setattr(f"{module}.LEAST", 1000)
    for most, slots in ((1 << 20, 1 << 12), (20_000, 64)):
        monkeypatch.setattr(bracket, "_MOST", most)
        monkeypatch.setattr(bracket, "_SLOTS", slots)
        got = merged(paths, recipe, tmp_path / f"bracket-{most}")
        assert got.keys() == want.keys()
        for name, tensor in want.items():
            assert torch.equal(got[name].view(torch.uint8), tensor.view(torch.uint8)), name
    assert any(used)


def test_a_value_is_found_in_two_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample, and one read of everything: no digit is counted."""
    counted: list[int] = []
    paths = write(tmp_path, "continuous")
    monkeypatch.setattr("sta_kernels.engine.runs.LEAST", 1000)
    monkeypatch.setattr(bracket, "_SAMPLE", 1 << 14)
    monkeypatch.setattr(bracket.SelectAccumulator, "take", lambda *_, **__: counted.append(1))
    monkeypatch.setattr("sta_kernels.engine.memory.SIZES", small_arenas())
    merged(paths, "ties", tmp_path / "out")
    assert not counted


def small_arenas() -> dict[str, Any]:
    from dataclasses import replace

    from sta_kernels.engine import memory

    return {**memory.SIZES, "native": replace(memory.SIZES["native"], arena=1 << 20, tile=1 << 19)}
