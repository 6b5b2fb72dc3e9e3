"""What merges from files to files must reach, and the table of it, from rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.disk.recipes import RECIPES, Recipe
from benchmarks.records import Row
from benchmarks.summary import markdown

OP = "disk"
CONTENDER = "sta-kernels merge"
MEGABYTES = 534
MODELS = 4
THREADS = 2
STARTUP = 0.35
MEMORY = 300 * 10**6
COLD = {1: 1.15, 2: 2.1}
"""Most that a cold merge may take, of the storage floor, by the reads that its method needs."""
HEAD = ("recipe", "÷ memory floor", "× mergekit", "start-up", "RssAnon", "÷ storage floor, cold")


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


def cells(rows: Sequence[Row], name: str, megabytes: int = MEGABYTES) -> list[Cell]:
    """What was found for a recipe, in the order of :data:`HEAD` but for the name."""
    recipe = RECIPES[name]
    case = {"recipe": name, "models": MODELS, "threads": THREADS, "megabytes": megabytes}
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


def table(rows: Sequence[Row], names: Sequence[str] = tuple(RECIPES), megabytes: int = MEGABYTES) -> str:
    """Markdown: a line per recipe of which anything was measured."""
    lines: list[Sequence[str]] = [HEAD]
    for name in names:
        found = cells(rows, name, megabytes)
        if any(found_cell.row for found_cell in found):
            lines.append([name, *(cell.text if cell.holds is not False else f"**{cell.text}**" for cell in found)])
    return markdown(lines)


def verdict(rows: Sequence[Row], names: Sequence[str] = tuple(RECIPES), megabytes: int = MEGABYTES) -> bool:
    """Whether every bar that was measured is reached."""
    return all(cell.holds is not False for name in names for cell in cells(rows, name, megabytes))


def origin(rows: Sequence[Row], megabytes: int = MEGABYTES) -> list[Row]:
    """The rows of the table."""
    return [cell.row for name in RECIPES for cell in cells(rows, name, megabytes) if cell.row is not None]


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
