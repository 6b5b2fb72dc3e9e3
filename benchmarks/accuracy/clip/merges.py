"""The merges: Table 2's methods, forgetting as in Table 3, and all pairs of tasks as in Figure 3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from benchmarks.accuracy.clip.settings import FROZEN, Layout

P = 0.7
LAMBDA = 0.4
DENSITY = 0.2
PCB_LAMBDA = 1.2
MEASURES = {"lp": "LP", "amp": "Amp", "lp_amp": "LP + Amp"}


@dataclass(frozen=True)
class Merge:
    """One merge and the row that it gives.

    Attributes:
        name: of its files, unique in a run.
        title: in tables.
        tasks: whose models it takes, in order.
        method: of the recipe.
        parameters: of the method.
        importance: whether it reads importances.
        dropped: whether it takes the models after DARE.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    method: str
    parameters: dict[str, Any]
    importance: bool = False
    dropped: bool = False

    def content(self, layout: Layout, *, count_frozen: bool) -> dict[str, Any]:
        """The recipe, for models with or without the frozen text entries."""
        models: list[dict[str, Any]] = []
        for task in self.tasks:
            models.append({"model": str(layout.dropped(task) if self.dropped else layout.model(task))})
            if self.importance:
                models[-1]["parameters"] = {"importance": str(layout.importance(task))}
        recipe: dict[str, Any] = {"merge_method": self.method, "base_model": str(layout.base), "models": models}
        if self.method == "tsv_m" and count_frozen:
            recipe["exclude"] = list(FROZEN)  # a matrix of zeros is long to decompose, and gives zeros
        return recipe | ({"parameters": self.parameters} if self.parameters else {}) | {"dtype": "float32"}


def sta(tasks: Sequence[str], prefix: str = "") -> Iterator[Merge]:
    """STA with its three measures."""
    for measure, title in MEASURES.items():
        parameters = {"p": P, "measure": measure}
        name, read = f"{prefix}sta_{measure}", measure != "amp"
        yield Merge(name, f"STA {title}, p = {P}", tuple(tasks), "sta", parameters, importance=read)


def task_arithmetic(tasks: Sequence[str], prefix: str = "") -> Merge:
    """Task arithmetic with the paper's coefficient."""
    title = f"task arithmetic, λ = {LAMBDA}"
    return Merge(f"{prefix}task_arithmetic", title, tuple(tasks), "task_arithmetic", {"lambda": LAMBDA})


def table2(tasks: Sequence[str], dare_drop: float) -> list[Merge]:
    """Merges of all tasks, in the table's order."""
    models = tuple(tasks)
    ties = {"density": DENSITY, "lambda": LAMBDA, "scope": "model"}
    ties_title = f"TIES, keep {DENSITY}, λ = {LAMBDA}"
    plain = [
        Merge("average", "weight averaging", models, "linear", {}),
        task_arithmetic(models),
        Merge("ties", ties_title, models, "ties", ties),
    ]
    after_dare = [
        Merge(
            f"dare_{merge.name}", f"{merge.title}, after DARE, drop {dare_drop:g}",
            models, merge.method, merge.parameters, dropped=True,
        )
        for merge in plain
    ]  # fmt: skip
    others = [
        Merge("pcb", f"PCB-Merging, ratio 0.05, λ = {PCB_LAMBDA}", models, "pcb", {"lambda": PCB_LAMBDA}),
        Merge("tsv_m", "TSV-M, λ = 1", models, "tsv_m", {}),
    ]
    return [*plain, *after_dare, *others, *sta(models)]


def dare(task: str, seed: int, drop: float) -> Merge:
    """One model whose task vector lost a random share of its entries, the rest scaled by 1/(1 − drop)."""
    parameters = {"density": round(1 - drop, 12), "rescale": "keep_rate", "seed": seed}
    return Merge(f"dare_of_{task}", f"DARE of {task}", (task,), "dare_linear", parameters)


def table3(tasks: Sequence[str]) -> list[Merge]:
    """Forgetting each task, from the pretrained model: all of its task vector, or what STA selects."""
    merges = []
    for task in tasks:
        merges.append(Merge(f"negate_{task}", "negation, λ = -1", (task,), "task_arithmetic", {"lambda": -1.0}))
        for measure, title in MEASURES.items():
            parameters = {"p": P, "measure": measure}
            name, read = f"forget_{measure}_{task}", measure != "amp"
            merges.append(Merge(name, f"STA {title}, p = {P}", (task,), "sta_forget", parameters, importance=read))
    return merges


def pairs(tasks: Sequence[str]) -> list[Merge]:
    """Each pair of tasks, by task arithmetic and by STA."""
    merges: list[Merge] = []
    for pair in combinations(tasks, 2):
        prefix = "-".join(pair) + "-"
        merges += [task_arithmetic(pair, prefix), *sta(pair, prefix)]
    return merges
