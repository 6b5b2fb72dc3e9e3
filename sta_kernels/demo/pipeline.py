"""The stages, from loaded data and model to the numbers, all through files."""

from __future__ import annotations

import copy
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import sta_kernels
from sta_kernels.demo.data import Task
from sta_kernels.demo.recipes import DemoRecipe, Layout, forgetting, merges
from sta_kernels.demo.train import Head, accuracy, finetune, ridge_head, to_input
from sta_kernels.demo.vit import Vit, VitConfig, freeze_all_but_blocks
from sta_kernels.engine import Manifest

IMPORTANCE_SAMPLES = 32
Say = Callable[[str], None]


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Seeded torch with deterministic algorithms only; both are put back afterwards."""
    before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


def save_model(model: Vit, folder: Path) -> None:
    """Write ``model.safetensors`` and ``config.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "dinov2-style-vit", **asdict(model.config)}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_model(folder: Path) -> Vit:
    """The model that a folder holds, by its own ``config.json``."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("model_type")
    model = Vit(VitConfig(**config))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


def save_importance(model: Vit, head: Head, task: Task, path: Path, rng: np.random.Generator) -> None:
    """LP importance (eq. 12) from 32 training samples, one backward each."""
    freeze_all_but_blocks(model)
    chosen = task.train.take(rng.choice(len(task.train), min(IMPORTANCE_SAMPLES, len(task.train)), replace=False))
    inputs = to_input(chosen.images, model.config.image)
    samples = [(inputs[i : i + 1], torch.from_numpy(chosen.labels[i : i + 1])) for i in range(len(chosen))]
    sta_kernels.importance(model, samples, head.loss, measure="lp").save(path)


def prepare(base: Vit, tasks: Sequence[Task], layout: Layout, *, seed: int, steps: int, say: Say) -> dict[str, Head]:
    """Write the pretrained and the fine-tuned models and their importance files; return the frozen heads."""
    save_model(base, layout.base)
    heads = {}
    for number, task in enumerate(tasks):
        rng = np.random.default_rng((seed, number))
        heads[task.name] = ridge_head(base, task, rng)
        say(f"{task.name}: fine-tuning, {steps} steps of {len(task.train)} images")
        model = copy.deepcopy(base)

        def progress(step: int, loss: float, name: str = task.name) -> None:
            if step % 20 == 0 or step == steps:
                say(f"{name}: step {step}/{steps}, loss {loss:.3f}")

        finetune(model, heads[task.name], task.train, steps=steps, rng=rng, progress=progress)
        save_model(model, layout.model(task.name))
        say(f"{task.name}: importance from {IMPORTANCE_SAMPLES} training samples")
        save_importance(model, heads[task.name], task, layout.importance(task.name), rng)
    return heads


def merge(recipe: DemoRecipe, layout: Layout) -> Manifest:
    """Write the recipe and carry it out: the code path of ``sta-kernels merge``."""
    path = layout.recipe(recipe.name)
    recipe.write(path)
    manifest = sta_kernels.merge_checkpoints(path, layout.merged(recipe.name), overwrite=True)
    assert isinstance(manifest, Manifest)  # not a dry run
    return manifest


def row_of(name: str, title: str, accuracies: dict[str, float], kept: dict[str, float] | None = None) -> dict[str, Any]:
    """One row of the table: accuracy by task, and the share of entries kept by task where entries were selected."""
    return {"name": name, "title": title, "accuracy": accuracies, "kept": kept}


def rates_of(manifest: Manifest, models: Sequence[str]) -> dict[str, Any]:
    """Share of each merged tensor's entries that each model kept."""
    tensors = manifest.tensors
    return {
        "tensors": [tensor["name"] for tensor in tensors],
        "rates": {
            model: [tensor["kept"][i] / tensor["elements"] for tensor in tensors] for i, model in enumerate(models)
        },
    }


def kept_shares(manifest: Manifest, models: Sequence[str]) -> dict[str, float] | None:
    """Share of all merged entries that each model kept; None for methods that select nothing."""
    summary = manifest.summary()
    if not summary["kept"]:
        return None
    return {model: kept / summary["elements_merged"] for model, kept in zip(models, summary["kept"], strict=True)}


def demonstrate(base: Vit, tasks: Sequence[Task], out: Path, *, seed: int, steps: int, say: Say) -> dict[str, Any]:
    """Fine-tune, take importance, merge, forget and evaluate.

    Args:
        base: the pretrained model.
        tasks: with training and test images; the first is the one that is forgotten.
        out: receives ``models``, ``recipes`` and ``merged``.
        seed: of everything random.
        steps: batches of fine-tuning per task.
        say: receives progress.

    Returns:
        All numbers, JSON-able.
    """
    layout = Layout(out)
    names = [task.name for task in tasks]
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start

    with deterministic(seed):
        with timed("fine-tuning and importance"):
            heads = prepare(base, tasks, layout, seed=seed, steps=steps, say=say)

        def evaluate(folder: Path, only: str | None = None) -> dict[str, float]:
            with timed("evaluation"):
                model = load_model(folder)
                chosen = [task for task in tasks if only in (None, task.name)]
                return {task.name: accuracy(model, heads[task.name], task.test) for task in chosen}

        say("accuracy of the pretrained and of the fine-tuned models")
        individual = {name: evaluate(layout.model(name), name)[name] for name in names}
        rows = [
            row_of("pretrained", "pretrained", evaluate(layout.base)),
            row_of("individual", "individual", individual),
        ]
        selection = {}
        for recipe in [*merges(layout, names), *forgetting(layout, names[0])]:
            say(f"{recipe.title}: merging and evaluating")
            with timed("merging"):
                manifest = merge(recipe, layout)
            rows.append(
                row_of(
                    recipe.name,
                    recipe.title,
                    evaluate(layout.merged(recipe.name)),
                    kept_shares(manifest, recipe.tasks),
                )
            )
            if manifest.method == "sta":
                selection[recipe.title] = rates_of(manifest, recipe.tasks)
    return {
        "seed": seed,
        "steps": steps,
        "tasks": [
            {"name": task.name, "classes": task.classes, "train": len(task.train), "test": len(task.test)}
            for task in tasks
        ],
        "rows": rows,
        "forgotten": names[0],
        "selection": selection,
        "seconds": seconds,
        "versions": {"sta_kernels": sta_kernels.__version__, "torch": torch.__version__, "numpy": np.__version__},
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
    }
