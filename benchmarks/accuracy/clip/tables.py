"""Tables 2 and 3 in Markdown, from the record of a run; published figures beside ours where there are any."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy.clip.run import INDIVIDUAL, PRETRAINED
from benchmarks.tables import markdown
from sta_kernels.errors import InputError
from sta_kernels.vision import TASKS

SHIPPED = Path(__file__).with_name("published.json")
Published = Mapping[str, Mapping[str, float]]


def published(file: Path, model: str) -> tuple[str, Published]:
    """Source and figures, in per cent by row and task, of an architecture; empty where the file has none.

    Raises:
        InputError: the file is not of the form of ``published.json``.
    """
    try:
        entry = json.loads(file.read_text(encoding="utf-8")).get(model.removesuffix("-quickgelu"), {})
        rows = {
            name: {task: float(value) for task, value in row.items()} for name, row in entry.get("rows", {}).items()
        }
        return str(entry.get("source", file)), rows
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{file}: not of the form of {SHIPPED.name}: {error}") from None


def percent(share: float) -> str:
    """A share with one decimal."""
    return f"{100 * share:.1f}"


def mean(values: Sequence[float]) -> float:
    """Of at least one."""
    return sum(values) / len(values)


def title_of(task: str) -> str:
    """As papers write it."""
    return TASKS[task].title


def table2(record: Mapping[str, Any], theirs: Published, source: str) -> str:
    """One line per method: accuracy per task, in per cent, and its mean."""
    rows = record["rows"]
    tasks = list(rows[INDIVIDUAL]["accuracy"])
    names = [PRETRAINED, INDIVIDUAL, *(name for name, row in rows.items() if row["part"] == "table2")]
    lines = [("method", *map(title_of, tasks), "mean", "kept per task, %")]
    shown = False
    for name in names:
        row, beside = rows[name], theirs.get(name, {})
        cells = [percent(row["accuracy"][t]) + (f" ({beside[t]:g})" if t in beside else "") for t in tasks]
        shown = shown or any(task in beside for task in tasks)
        shares = " / ".join(map(percent, row["kept"].values())) if row.get("kept") else "–"
        lines.append((row["title"], *cells, percent(mean([row["accuracy"][task] for task in tasks])), shares))
    note = f"In brackets: {source}.\n\n" if shown else ""
    return f"{markdown(lines)}\n\n{note}{counted(record, tasks)}"


def table3(record: Mapping[str, Any], control: str | None) -> str:
    """One line per task and way to forget it: accuracy on the task, and on what is to stay."""
    rows = record["rows"]
    lines = [("forgotten", "method", "target, %", "control, %")]
    before = rows[PRETRAINED]["accuracy"]
    forgotten = [row for row in rows.values() if row["part"] == "table3"]
    for target in dict.fromkeys(row["tasks"][0] for row in forgotten):
        same = [row for row in forgotten if row["tasks"] == [target]]
        others = [task for task in same[0]["accuracy"] if task != target]
        start = {"title": "pretrained", "accuracy": before}
        for row in (start, *same):
            cells = percent(row["accuracy"][target]), percent(mean([row["accuracy"][task] for task in others]))
            lines.append((title_of(target), row["title"], *cells))
    name = "the mean of the other tasks" if control is None else title_of(control.partition("=")[0])
    return f"{markdown(lines)}\n\nControl: {name}."


def pairs(record: Mapping[str, Any]) -> str:
    """One line per pair and method: accuracy of the merge over that of the pair's own models, its mean."""
    rows = record["rows"]
    own = rows[INDIVIDUAL]["accuracy"]
    merged = [row for row in rows.values() if row["part"] == "pairs"]
    titles = list(dict.fromkeys(row["title"] for row in merged))
    lines = [("pair", *titles)]
    for pair in dict.fromkeys(tuple(row["tasks"]) for row in merged):
        cells = {
            row["title"]: percent(normalised(row["accuracy"], own)) for row in merged if tuple(row["tasks"]) == pair
        }
        lines.append((" + ".join(map(title_of, pair)), *(cells[title] for title in titles)))
    return f"{markdown(lines)}\n\nAccuracy over that of the individual models, in per cent, mean of the two tasks."


def normalised(accuracy: Mapping[str, float], own: Mapping[str, float]) -> float:
    """Mean of the shares of the individual models' accuracy; a task that its own model never gets right is left out."""
    shares = [value / own[task] for task, value in accuracy.items() if own[task]]
    return mean(shares) if shares else 0.0


def counted(record: Mapping[str, Any], tasks: Sequence[str]) -> str:
    """How many pictures stand behind the figures, and how sure that makes them."""
    images = record["images"]
    errors = [
        (share * (1 - share) / images[task]) ** 0.5
        for row in record["rows"].values()
        for task, share in row["accuracy"].items()
    ]
    held = ", ".join(f"{title_of(task)} {images[task]}" for task in tasks)
    return f"Test pictures: {held}. The standard error of one accuracy is at most {percent(max(errors))} points."


def render(record: Mapping[str, Any], parts: Sequence[str], control: str | None, theirs: Published, source: str) -> str:
    """All tables of a run."""
    drawn = []
    if "table2" in parts:
        drawn.append("## Merging (Table 2)\n\n" + table2(record, theirs, source))
    if "table3" in parts:
        drawn.append("## Forgetting (Table 3)\n\n" + table3(record, control))
    if "pairs" in parts:
        drawn.append("## Pairs (Figure 3)\n\n" + pairs(record))
    return "\n\n".join(drawn) + "\n"
