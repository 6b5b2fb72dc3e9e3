"""From what merges got right, image by image, to the rows of ``results/accuracy.jsonl``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.accuracy.offline.merges import Merge, Outcome
from benchmarks.accuracy.offline.statistics import Array, Estimate, Values, difference, estimate
from benchmarks.records import Row, rounded

OP = "accuracy"
SUITE = "offline"
REFERENCES = {
    "merging": ("sta_lp", "task_arithmetic"),
    "controls": ("sta_lp", "task_arithmetic"),
    "beyond": ("sta_lp", "task_arithmetic"),
    "samples": ("sta_lp",),
    "p": ("sta_lp",),
    "forgetting": ("pretrained", "forget-lp"),
    "pairs": ("pair-sta_lp",),
}
"""By section, what its merges are compared with, image by image."""
Outcomes = Mapping[str, Sequence[Outcome]]
"""By merge, one outcome per seed."""


class Collection:
    """All outcomes of a run.

    Args:
        merges: by name.
        outcomes: of the same names, one per seed.
        test_ids: which images each seed's test has, by task and seed.
    """

    def __init__(self, merges: Mapping[str, Merge], outcomes: Outcomes, test_ids: Values) -> None:
        self._merges = merges
        self._outcomes = outcomes
        self._ids = test_ids
        self._families: dict[str, list[str]] = {}
        for name, merge in merges.items():
            self._families.setdefault(merge.family, []).append(name)

    def rows(self) -> Iterator[Row]:
        """One row per merge, and one per family of merges that differ by their tasks alone."""
        individual = self._individual()
        for name in self._merges:
            yield self._row([name], name, individual)
        for family, names in self._families.items():
            if family not in self._merges:
                yield self._row(names, family, individual)

    def _row(self, names: Sequence[str], contender: str, individual: Values) -> Row:
        merge = self._merges[names[0]]
        alone = contender in self._merges
        suffix = contender.removeprefix(merge.family)
        targets, controls = self._values(names, target=True), self._values(names, target=False)
        row: Row = {
            "contender": contender,
            "section": merge.section,
            "title": merge.title,
            "family": not alone,
            "of": list(merge.of) if alone else [],
            "images": {task: len(seeds[0]) for task, seeds in {**targets, **controls}.items()},
            "accuracy": shares(targets),
            "average": self._estimate(targets),
        }
        if alone and len(merge.values) > 1:
            row["value"] = [plain(outcome.value) for outcome in self._outcomes[names[0]]]
            row["values"] = [plain(value) for value in merge.values]
        if set(targets) <= set(individual):
            row["normalised"] = normalised(targets, individual)
        if controls:
            row["control_accuracy"] = shares(controls)
            row["control"] = self._estimate(controls)
        if versus := self._versus(merge, contender, suffix, targets, controls):
            row["versus"] = versus
        if alone and (kept := kept_shares(self._outcomes[names[0]])):
            row["kept"] = kept
        return row

    def _versus(self, merge: Merge, contender: str, suffix: str, targets: Values, controls: Values) -> Row:
        """Paired differences from the references of the section that were run, too."""
        found: Row = {}
        for reference in REFERENCES.get(merge.section, ()):
            other = reference if reference in self._merges else reference + suffix
            names = [other] if other in self._merges else self._families.get(other, [])
            if not names or other == contender:
                continue
            found[reference] = {"average": self._estimate(difference(targets, self._against(names, targets, True)))}
            if controls:
                there = self._against(names, controls, False)
                found[reference]["control"] = self._estimate(difference(controls, there))
        return found

    def _against(self, names: Sequence[str], wanted: Values, target: bool) -> Values:
        """The reference's numbers on the wanted tasks: in the same role, or in any where it is about all tasks."""
        everything = not self._merges[names[0]].of
        return self._values(names, target=True) if everything else self._values(names, target=target)

    def _values(self, names: Sequence[str], *, target: bool) -> dict[str, list[Array]]:
        """By task and seed, per image the mean over the merges that are about the task, or have it as a control."""
        gathered: dict[str, list[list[Array]]] = {}
        for name in names:
            merge = self._merges[name]
            for task in merge.on:
                if (task in merge.targets) == target:
                    of_task = [outcome.correct[task].astype(np.float64) for outcome in self._outcomes[name]]
                    gathered.setdefault(task, []).append(of_task)
        return {
            task: [np.mean(per_seed, axis=0) for per_seed in zip(*members, strict=True)]
            for task, members in gathered.items()
        }

    def _individual(self) -> Values:
        return self._values(self._families.get("individual", []), target=True)

    def _estimate(self, values: Values) -> dict[str, float | None]:
        return told(estimate(values, {task: self._ids[task] for task in values}))


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def told(found: Estimate) -> dict[str, float | None]:
    """An estimate as a row has it."""
    return {name: None if value is None else rounded(value) for name, value in asdict(found).items()}


def shares(values: Values) -> dict[str, list[float]]:
    """Accuracy by task and seed."""
    return {task: [rounded(float(np.mean(each))) for each in seeds] for task, seeds in values.items()}


def normalised(targets: Values, individual: Values) -> list[float]:
    """By seed, the mean over tasks of the accuracy over that of the task's own model, on the same images."""
    by_seed = [
        [float(np.mean(these) / np.mean(own[: len(these)])) for these, own in zip(seeds, individual[task], strict=True)]
        for task, seeds in targets.items()
    ]
    return [rounded(float(each)) for each in np.mean(by_seed, axis=0)]


def kept_shares(outcomes: Sequence[Outcome]) -> dict[str, list[float]]:
    """By tensor, the share of its entries that each task keeps, mean over seeds; last, that which no task keeps."""
    by_name = {name: np.mean([outcome.kept[name] for outcome in outcomes], axis=0) for name in outcomes[0].kept}
    return {name: [float(f"{share:.4g}") for share in means] for name, means in by_name.items()}
