"""The same recipe gives the same files on the CPU and, staged through twins of the buffers, on Triton's kernels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sta_kernels import methods
from sta_kernels.engine import Manifest, Plan, memory, merge_checkpoints, verify
from sta_kernels.engine.journal import Journal
from sta_kernels.errors import RunError

SHAPES = {"a.in_proj_weight": (12, 10), "a.bias": (10,), "b.weight": (9, 21), "scale": (), "empty": (0, 3)}
CASES: dict[str, dict[str, Any]] = {
    "lp": {"parameters": {"p": 0.5}},
    "lp, two kept, ties, λ, float16": {"parameters": {"keep": 2, "ties": "all", "lambda": 0.7}, "dtype": "float16"},
    "lp, first of ties": {"parameters": {"keep": 1, "ties": "first", "weight": 0.5}},
    "mean, float64": {"parameters": {"normalise": "mean"}, "dtype": "float64"},
    "amp": {"parameters": {"measure": "amp", "p": 0.4}},
    "lp_amp, parts": {"parameters": {"measure": "lp_amp", "p": 0.3}, "split": {"*.in_proj_weight": 3}},
    "sta_forget": {"parameters": {"p": 0.6}},
    "sta_forget, lp_amp": {"parameters": {"measure": "lp_amp", "p": 0.2, "lambda": 0.5}},
    "linear": {"parameters": {"weight": 0.3}},
    "task_arithmetic, exclude, float32": {"parameters": {"lambda": 0.4}, "exclude": ["b.*"], "dtype": "float32"},
    "della, parts": {"parameters": {"density": 0.5, "seed": 3}, "split": {"*.in_proj_weight": 3}},
    "della_linear, float32": {"parameters": {"density": 0.4, "rescale": "keep_rate"}, "dtype": "float32"},
}

CASES |= {
    "sta_block": {"merge_method": "sta", "parameters": {"p": 0.5, "scope": "block"}},
    "sta_forget, only added": {"parameters": {"p": 0.4, "only_added": True}},
    "ties": {"parameters": {"density": 0.3, "weight": 0.5, "rescale": True}, "split": {"*.in_proj_weight": 3}},
    "ties, model": {"parameters": {"density": 0.2, "scope": "model"}},
    "dare_ties, float64": {"parameters": {"density": 0.4, "seed": 7}, "dtype": "float64"},
    "breadcrumbs_ties": {"parameters": {"density": 0.5, "gamma": 0.3}},
    "consensus": {"parameters": {"mask_lambda": 0.3, "lambda": 0.5}},
    "pcb": {"parameters": {"ratio": 0.3}},
    "fisher": {"parameters": {"normalize": True}},
    "tatr": {"parameters": {"quantile": 0.9}},
    "sce": {"parameters": {"select_topk": 0.4}},
    "model_stock": {},
    "karcher": {},
}

FORGETTING = ("sta_forget", "sta_forget, lp_amp")
NAMES = sorted(methods.names(), key=len, reverse=True)


class Small:
    """Tiny checkpoints: bfloat16 weights; importances in float32 and with many equal values."""

    def __init__(self, folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
        self.folder = folder
        random = np.random.default_rng(5)

        def tensors(scale: float) -> dict[str, torch.Tensor]:
            return {
                n: torch.tensor(random.standard_normal(s, np.float32) * np.float32(scale)) for n, s in shapes.items()
            }

        base = tensors(0.5)
        self.save("base", "model", {n: x.bfloat16() for n, x in base.items()} | {"steps": torch.tensor([3])})
        for i in range(3):
            model = {n: (base[n] + x).bfloat16() for n, x in tensors(0.1).items()}
            self.save(f"model{i}", "model", model | {"steps": torch.tensor([3])})
            self.save(f"model{i}", "importance", {n: (x.abs() * 4).round() / 4 for n, x in tensors(1).items()})

    def save(self, name: str, stem: str, tensors: dict[str, torch.Tensor]) -> None:
        (self.folder / name).mkdir(exist_ok=True)
        save_file(tensors, self.folder / name / f"{stem}.safetensors", metadata={"format": "pt"})

    def recipe(self, case: str) -> dict[str, Any]:
        method = CASES[case].get("merge_method") or next((name for name in NAMES if case.startswith(name)), "sta")
        models: list[dict[str, Any]] = [{"model": str(self.folder / f"model{i}")} for i in range(3)]
        if method in ("sta", "sta_forget", "fisher", "tatr"):
            for model in models:
                model["parameters"] = {"importance": f"{model['model']}/importance.safetensors"}
        base = {} if method in ("linear", "fisher") else {"base_model": str(self.folder / "base")}
        return {"merge_method": method, "models": models[: 1 if case in FORGETTING else 3], **base, **CASES[case]}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(tmp_path_factory.mktemp("small"), SHAPES)


def merged(recipe: dict[str, Any], out: Path, device: str, **options: Any) -> Manifest:
    manifest = merge_checkpoints(recipe, out, device=device, **options)
    assert isinstance(manifest, Manifest)
    assert (manifest.served_by["device"], manifest.served_by["backend"] == "triton") == (device, device != "cpu")
    return manifest


@pytest.mark.parametrize("case", CASES)
def test_the_same_digest_on_both_devices(small: Small, case: str, tmp_path: Path) -> None:
    recipe = small.recipe(case)
    one, other = (merged(recipe, tmp_path / device, device, threads=2) for device in ("cpu", "interpret"))
    assert one.files == other.files
    assert one.tensors == other.tensors
    assert one.identity == other.identity
    assert verify(tmp_path / "interpret") == []


@pytest.mark.parametrize(("case", "arena"), [("mean, float64", 128 << 10), ("sta_forget", 64 << 10)])
def test_tiles_and_streamed_statistics(case: str, arena: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor above a worker's buffers: its statistics and its tiles in several pieces, by two workers."""
    for kind, sizes in memory.SIZES.items():
        monkeypatch.setitem(memory.SIZES, kind, replace(sizes, arena=arena))
    recipe = Small(tmp_path, {"w": (2, 4099)}).recipe(case)
    one, other = (merged(recipe, tmp_path / device, device, threads=2) for device in ("cpu", "interpret"))
    assert one.files == other.files


@pytest.mark.parametrize(("first", "then"), [("cpu", "interpret"), ("interpret", "cpu")])
def test_a_merge_is_continued_on_another_device(
    small: Small, first: str, then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = small.recipe("lp"), tmp_path / "out"
    whole = merged(recipe, tmp_path / "whole", "cpu", out_shard_size="300B")
    append = Journal._append
    records = iter(range(6))

    def stopping(journal: Journal, record: Any) -> None:
        told = record.keys() & {"differs", "varies"}  # of models, whose number is no matter here
        if not told and next(records, None) is None:
            raise RunError("stopped")
        append(journal, record)

    monkeypatch.setattr(Journal, "_append", stopping)
    with pytest.raises(RunError, match="stopped"):
        merge_checkpoints(recipe, out, device=first, threads=1, out_shard_size="300B")
    monkeypatch.undo()
    result = merged(recipe, out, then, out_shard_size="300B")
    assert 0 < result.kept_bytes < sum(record["size"] for record in whole.files.values())
    assert result.files == whole.files
    assert result.tensors == whole.tensors
    assert merge_checkpoints(recipe, out, device=first, out_shard_size="300B").already_finished  # type: ignore[union-attr]


def test_errors_are_found_through_the_twins_too(small: Small, tmp_path: Path) -> None:
    bad = Small(tmp_path, SHAPES)
    tensors = {name: torch.full(shape, 1e30) for name, shape in SHAPES.items()}
    bad.save("model1", "model", tensors | {"steps": torch.tensor([3])})
    messages = []
    for device in ("cpu", "interpret"):
        recipe = bad.recipe("lp, two kept, ties, λ, float16")
        with pytest.raises(ValueError, match="overflows float16 at") as refused:
            merge_checkpoints(recipe, tmp_path / "out", device=device, threads=1)
        messages.append(str(refused.value))
    tensors["b.weight"][2, 3] = float("nan")
    bad.save("model1", "model", tensors | {"steps": torch.tensor([3])})
    for device in ("cpu", "interpret"):
        with pytest.raises(ValueError, match=r"'b.weight' is nan at \[2, 3\]") as refused:
            merge_checkpoints(bad.recipe("linear"), tmp_path / "out", device=device, threads=1)
        messages.append(str(refused.value))
    assert messages[0] == messages[1]
    assert messages[2] == messages[3]


def test_the_plan_names_the_device_and_what_it_holds(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small.recipe("lp")
    plans = {device: merge_checkpoints(recipe, "out", device=device, dry_run=True) for device in ("cpu", "interpret")}
    assert all(isinstance(plan, Plan) for plan in plans.values())
    summaries = {device: plan.to_json() for device, plan in plans.items() if isinstance(plan, Plan)}
    assert summaries["interpret"]["backend"] == "triton"
    assert "interpreter" in summaries["interpret"]["reason"]
    assert summaries["cpu"]["identity"] == summaries["interpret"]["identity"]
    monkeypatch.setenv("STA_KERNELS_BACKEND", "triton")
    plan = merge_checkpoints(recipe, "out", dry_run=True)
    assert isinstance(plan, Plan)
    assert plan.placement.device == "interpret"
    assert plan.placement.reason.startswith("STA_KERNELS_BACKEND=triton")
    with pytest.raises(ValueError, match="device: cuda cannot serve: TRITON_INTERPRET=1"):
        merge_checkpoints(recipe, "out", device="cuda", dry_run=True)
