"""Figures 3 and 4, drawn from the record of a run, with their data beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.accuracy.clip.run import INDIVIDUAL
from benchmarks.accuracy.clip.tables import normalised, title_of

_BLOCK = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.(.+)")


def by_layer_and_type(rates: Mapping[str, float]) -> dict[str, dict[int, float]]:
    """Selection rates of the tensors in the blocks: type (``mlp.c_fc.weight``) to layer to rate."""
    grouped: dict[str, dict[int, float]] = {}
    for name, rate in rates.items():
        if match := _BLOCK.fullmatch(name):
            grouped.setdefault(match[2], {})[int(match[1])] = rate
    return grouped


def pair_matrix(record: Mapping[str, Any], title: str) -> list[list[float | None]]:
    """Normalised accuracy of the merge of tasks i and j by a method; None on the diagonal."""
    rows, own = record["rows"], record["rows"][INDIVIDUAL]["accuracy"]
    tasks = list(own)
    found: dict[frozenset[str], float] = {
        frozenset(row["tasks"]): normalised(row["accuracy"], own)
        for row in rows.values()
        if row["part"] == "pairs" and row["title"] == title
    }
    return [[found.get(frozenset((a, b))) if a != b else None for b in tasks] for a in tasks]


def draw(record: Mapping[str, Any], parts: tuple[str, ...], folder: Path) -> list[Path]:
    """Write what the parts give: each picture with a JSON file of the same name.

    Args:
        record: of a run.
        parts: that it had.
        folder: for the files.

    Returns:
        The pictures.
    """
    rows = record["rows"]
    written = []
    if "pairs" in parts:
        titles = dict.fromkeys(row["title"] for row in rows.values() if row["part"] == "pairs")
        matrices = {title: pair_matrix(record, title) for title in titles}
        tasks = list(rows[INDIVIDUAL]["accuracy"])
        written.append(_save(folder / "figure3", {"tasks": tasks, "pairs": matrices}, _pairs))
    if "table2" in parts:
        selected = {
            row["title"]: {task: by_layer_and_type(rates) for task, rates in row["rates"].items()}
            for row in rows.values()
            if row.get("rates")
        }
        written.append(_save(folder / "figure4", selected, _rates))
    return written


def _save(stem: Path, data: Any, paint: Any) -> Path:
    """The data, and what is painted of it."""
    from matplotlib.figure import Figure

    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    figure = Figure(layout="constrained")
    paint(figure, data)
    path = stem.with_suffix(".png")
    figure.savefig(path, dpi=150)
    return path


def _pairs(figure: Any, data: Mapping[str, Any]) -> None:
    """A matrix of tasks by tasks per method."""
    names = [title_of(task) for task in data["tasks"]]
    values = [value for matrix in data["pairs"].values() for row in matrix for value in row if value is not None]
    figure.set_size_inches(5 * len(data["pairs"]), 4.5)
    axes = figure.subplots(1, len(data["pairs"]), squeeze=False)[0]
    for axis, (title, matrix) in zip(axes, data["pairs"].items(), strict=True):
        shown = [[float("nan") if value is None else value for value in row] for row in matrix]
        image = axis.imshow(shown, vmin=min(values), vmax=max(values), cmap="viridis")
        axis.set_title(title)
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right")
        axis.set_yticks(range(len(names)), names)
    figure.colorbar(image, ax=list(axes), label="accuracy over that of the individual models")


def _rates(figure: Any, data: Mapping[str, Mapping[str, Mapping[str, Mapping[int, float]]]]) -> None:
    """A matrix of types by layers per measure and task."""
    tasks = list(next(iter(data.values())))
    figure.set_size_inches(3.2 * len(tasks) + 2, 3.2 * len(data))
    axes = figure.subplots(len(data), len(tasks), squeeze=False)
    for line, (title, by_task) in zip(axes, data.items(), strict=True):
        for axis, task in zip(line, tasks, strict=True):
            types = list(by_task[task])
            layers = sorted({layer for rates in by_task[task].values() for layer in rates})
            shown = [[by_task[task][kind][layer] for layer in layers] for kind in types]
            image = axis.imshow(shown, vmin=0, vmax=1, cmap="viridis", aspect="auto")
            axis.set_title(f"{title}: {title_of(task)}", fontsize=8)
            axis.set_xticks(range(len(layers)), [str(layer) for layer in layers], fontsize=6)
            axis.set_yticks(range(len(types)), types if axis is line[0] else [""] * len(types), fontsize=6)
    figure.colorbar(image, ax=axes.ravel().tolist(), label="share of entries kept")
