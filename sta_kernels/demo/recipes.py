"""The recipes of the demonstration, as YAML files that ``sta-kernels merge`` takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FROZEN = ["cls_token", "pos_embed", "patch_embed.*"]
"""Entries that were not trained: taken from the base."""
P = 0.7
LAMBDA = 0.4
"""Task arithmetic's coefficient, as in the STA paper's Table 2."""
MEASURES = {"lp": "LP", "amp": "Amp", "lp_amp": "LP+Amp"}


@dataclass(frozen=True)
class Layout:
    """Where the demonstration keeps its files."""

    out: Path

    @property
    def base(self) -> Path:
        """The pretrained model."""
        return self.out / "models" / "base"

    def model(self, task: str) -> Path:
        """The model fine-tuned on a task."""
        return self.out / "models" / task

    def importance(self, task: str) -> Path:
        """A task's importance file."""
        return self.model(task) / "importance.safetensors"

    def recipe(self, name: str) -> Path:
        """A recipe by its name."""
        return self.out / "recipes" / f"{name}.yaml"

    def merged(self, name: str) -> Path:
        """What the recipe of that name yields."""
        return self.out / "merged" / name


@dataclass(frozen=True)
class DemoRecipe:
    """One merge: the name of its files, its title in the table, its tasks in order, and its content."""

    name: str
    title: str
    tasks: Sequence[str]
    content: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write the YAML file."""
        import yaml

        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {self.title}\n" + yaml.safe_dump(self.content, sort_keys=False), encoding="utf-8")


def content(
    layout: Layout, method: str, tasks: Sequence[str], parameters: dict[str, Any], *, importance: bool = False
) -> dict[str, Any]:
    """A recipe's content: the models of these tasks against the base, frozen entries from the base."""
    models: list[dict[str, Any]] = []
    for task in tasks:
        models.append({"model": str(layout.model(task))})
        if importance:
            models[-1]["parameters"] = {"importance": str(layout.importance(task))}
    head = {"merge_method": method, "base_model": str(layout.base), "models": models}
    return head | ({"parameters": parameters} if parameters else {}) | {"exclude": FROZEN, "dtype": "float32"}


def merges(layout: Layout, tasks: Sequence[str]) -> list[DemoRecipe]:
    """Averaging, task arithmetic, and STA with its three measures."""
    recipes = [
        DemoRecipe("average", "weight averaging", tasks, content(layout, "linear", tasks, {})),
        DemoRecipe(
            "task_arithmetic",
            f"task arithmetic, λ = {LAMBDA}",
            tasks,
            content(layout, "task_arithmetic", tasks, {"lambda": LAMBDA}),
        ),
    ]
    for measure, title in MEASURES.items():
        values = content(layout, "sta", tasks, {"p": P, "measure": measure}, importance=measure != "amp")
        recipes.append(DemoRecipe(f"sta_{measure}", f"STA {title}, p = {P}", tasks, values))
    return recipes


def forgetting(layout: Layout, task: str) -> list[DemoRecipe]:
    """Two ways to forget a task, from the pretrained model: STA's (eq. 20 with Θ_k = θ0), and subtracting all of τ."""
    return [
        DemoRecipe(
            f"forget_{task}",
            f"STA forgetting of {task}, LP, p = {P}",
            [task],
            content(layout, "sta_forget", [task], {"p": P, "measure": "lp"}, importance=True),
        ),
        DemoRecipe(
            f"negate_{task}",
            f"negation of {task}, λ = -1",
            [task],
            content(layout, "task_arithmetic", [task], {"lambda": -1.0}),
        ),
    ]
