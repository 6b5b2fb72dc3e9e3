"""What merges from files to files must reach, and the table of it, from rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.disk.recipes import RECIPES, Recipe
from benchmarks.records import Row
from benchmarks.tables import markdown

OP = "disk"
SCALING = "disk_scaling"
CONTENDER = "sta-kernels merge"
MEGABYTES = 534
MODELS = 4
SIZE: Row = {"megabytes": MEGABYTES, "models": MODELS, "threads": 2, "options": []}
"""What the bars are stated for: 267 M bfloat16 parameters."""
STARTUP = 0.35
MEMORY = 300 * 10**6
COLD = {1: 1.15, 2: 2.1}
"""Most that a cold merge may take, of the storage floor, by the reads that its method needs."""
RIVAL = "× mergekit"
HEAD = ("recipe", "÷ memory floor", RIVAL, "start-up", "RssAnon", "÷ storage floor, cold")


@dataclass(frozen=True)
class Cell:
    """A quantity and its bar.

    Attributes:
        text: with its spread and the bar.
        holds: whether the bar is reached; None where nothing was measured, or nothing is asked.
        row: where it comes from.
    """

    text: str = ""
    holds: bool | None = None
    row: Row | None = None


def latest(rows: Sequence[Row], has: str = "ratio", **case: Any) -> Row | None:
    """The last row of a case that holds a figure."""
    for row in reversed(rows):
        if row["op"] == OP and has in row and all(row["case"].get(key) == value for key, value in case.items()):
            return row
    return None


def cells(rows: Sequence[Row], name: str, **size: Any) -> list[Cell]:
    """What was found for a recipe, in the order of :data:`HEAD` but for the name; at :data:`SIZE`, or at a trial's."""
    recipe = RECIPES[name]
    case = SIZE | size | {"recipe": name}
    warm = latest(rows, storage="tmpfs", **case)
    rival = latest(rows, "mergekit", storage="tmpfs", **case)
    cold = latest(rows, storage="disk", **case)
    return [
        _cell(warm, lambda row: _most(row["ratio"], recipe.floor)),
        _cell(rival, lambda row: _faster(row["mergekit"]["speedup"], recipe)),
        _cell(warm, lambda row: _most(row["startup"], STARTUP, " s")),
        _cell(warm, _memory),
        _cell(cold, lambda row: _most(row["ratio"], COLD[recipe.reads])),
    ]


def table(rows: Sequence[Row], **size: Any) -> str:
    """Markdown: a line per recipe of which anything was measured; bold where a bar is not reached."""
    lines: list[Sequence[str]] = [HEAD]
    for name in RECIPES:
        found = cells(rows, name, **size)
        if any(cell.row for cell in found):
            lines.append([name, *(f"**{cell.text}**" if cell.holds is False else cell.text for cell in found)])
    return markdown(lines)


def reached(rows: Sequence[Row], **size: Any) -> bool:
    """Whether every bar of which anything was measured is."""
    return all(cell.holds is not False for name in RECIPES for cell in cells(rows, name, **size))


def complete(rows: Sequence[Row], **size: Any) -> bool:
    """Whether everything that there is a bar for was measured."""
    return all(
        cell.holds is not None or (head == RIVAL and RECIPES[name].speedup is None)
        for name in RECIPES
        for head, cell in zip(HEAD[1:], cells(rows, name, **size), strict=True)
    )


def origin(rows: Sequence[Row], **size: Any) -> list[Row]:
    """The rows of the table."""
    return [cell.row for name in RECIPES for cell in cells(rows, name, **size) if cell.row is not None]


def _cell(row: Row | None, found: Callable[[Row], tuple[str, bool | None]]) -> Cell:
    return Cell() if row is None else Cell(*found(row), row)


def _most(values: dict[str, float], bar: float, unit: str = "") -> tuple[str, bool]:
    text = f"{values['p50']:.2f}{unit} ({values['p20']:.2f} to {values['p80']:.2f}), ≤ {bar}"
    return text, values["p50"] <= bar


def _faster(values: dict[str, float], recipe: Recipe) -> tuple[str, bool | None]:
    if recipe.speedup is None:
        return "", None
    text = f"{values['p50']:.1f} ({values['p20']:.1f} to {values['p80']:.1f}), ≥ {recipe.speedup}"
    return text, values["p50"] >= recipe.speedup


def _memory(row: Row) -> tuple[str, bool]:
    return f"{row['rss_anon'] / 1e6:.0f} MB, ≤ {MEMORY // 10**6}", row["rss_anon"] <= MEMORY
