"""What a merge of the suite is, how its coefficient is chosen, and what it is found to get right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy.offline.laboratory import TEST, VALIDATION, Laboratory
from benchmarks.accuracy.offline.store import Tensors

KEPT = "kept:"
"""Before a tensor's name: the share of its entries that each model kept and, last, of the positions that kept none."""
Shares = Mapping[str, float]


@dataclass(frozen=True)
class Made:
    """A merged state dict, and where entries were selected, the counts that ``sta_kernels.merge`` reports."""

    state: Tensors
    counts: Mapping[str, list[int]] | None = None


def by_average(validation: Shares, pretrained: Shares) -> float:
    """The mean accuracy over the tasks."""
    return sum(validation.values()) / len(validation)


@dataclass(frozen=True)
class Merge:
    """One merge of the suite, up to its coefficient.

    Attributes:
        name: of its cached files and rows.
        title: in tables.
        section: the table that it belongs to.
        on: tasks on whose images it is evaluated.
        make: the merge by one of ``values``.
        values: to choose from on validation images; one: nothing to choose.
        score: what is greatest for the value that is chosen, of the accuracies by task on validation images and those
            of the pretrained model; of equals the first is taken.
        brief: fewer test images: :attr:`Sizes.brief`.
        of: the task that is restored or forgotten, or the pair that is merged; none: all tasks are merged.
    """

    name: str
    title: str
    section: str
    on: tuple[str, ...]
    make: Callable[[Laboratory, Any], Made]
    values: tuple[Any, ...] = (None,)
    score: Callable[[Shares, Shares], float] = by_average
    brief: bool = False
    of: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """What merges of other tasks or pairs by the same method have in common; the name where there are none."""
        return self.name.removesuffix("-" + "-".join(self.of))

    @property
    def targets(self) -> tuple[str, ...]:
        """The tasks that it is about, among those on which it is evaluated; the others are controls."""
        return self.of or self.on


@dataclass(frozen=True)
class Outcome:
    """One merge of one seed.

    Attributes:
        value: the coefficient that was chosen; None where there was nothing to choose.
        correct: bool [test images] by task.
        kept: by tensor, the share of its entries that each model kept and, last, of the positions that kept none;
            empty where nothing was selected.
    """

    value: Any
    correct: dict[str, np.ndarray]
    kept: dict[str, np.ndarray]


def run(laboratory: Laboratory, merge: Merge) -> Outcome:
    """Choose on validation images, then evaluate what was chosen, and nothing else, on test images."""
    value = chosen(laboratory, merge)
    found = _evaluated(laboratory, merge, value, TEST)
    return Outcome(
        value,
        {task: found[task] for task in merge.on},
        {name.removeprefix(KEPT): found[name] for name in found if name.startswith(KEPT)},
    )


def chosen(laboratory: Laboratory, merge: Merge) -> Any:
    """The value with the greatest score on validation images; test images are not looked at."""
    if len(merge.values) == 1:
        return merge.values[0]
    before = _shares(
        laboratory.evaluation("pretrained", VALIDATION, laboratory.names, lambda: (laboratory.base, {}), None), merge.on
    )

    def score(value: Any) -> float:
        return merge.score(_shares(_evaluated(laboratory, merge, value, VALIDATION), merge.on), before)

    return max(merge.values, key=score)


def _shares(correct: Mapping[str, np.ndarray], tasks: tuple[str, ...]) -> dict[str, float]:
    return {task: float(correct[task].mean()) for task in tasks}


def _evaluated(laboratory: Laboratory, merge: Merge, value: Any, part: str) -> dict[str, np.ndarray]:
    def make() -> tuple[Tensors, Tensors]:
        made = merge.make(laboratory, value)
        shares = {
            KEPT + name: torch.tensor(numbers, dtype=torch.float64) / made.state[name].numel()
            for name, numbers in (made.counts or {}).items()
        }
        return made.state, shares

    key = merge.name if len(merge.values) == 1 else f"{merge.name}@{value}"
    limit = laboratory.sizes.brief if merge.brief and part == TEST else None
    return laboratory.evaluation(key, part, merge.on, make, limit)
