"""Pictures as PNGs, each in a light and a dark form: small enough to be read on a phone."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

_WIDTH = 4.0
_DPI = 180
_LONGEST = 26
_TICKS = 12
_LETTERS = 34
"""On one line below a picture."""
_LINES = ("-", "--", ":", "-.")
_RC: dict[Any, Any] = {"text.parse_math": False, "font.size": 10.0, "lines.markersize": 5.0}


@dataclass(frozen=True)
class Theme:
    """Colours of a picture: of Okabe and Ito where tasks are told apart, also by colour-blind readers."""

    paper: str
    ink: str
    faint: str
    tasks: tuple[str, ...]
    shades: str


LIGHT = Theme(
    "#ffffff", "#1b1f24", "#d5d9de", ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#A6761D", "#333333"), "Blues"
)
DARK = Theme(
    "#171a1f", "#e6e8eb", "#3a4048", ("#56B4E9", "#FF9F4A", "#2CCB9B", "#E39BC8", "#F0E442", "#DDDDDD"), "cividis"
)


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        name: of its file, without suffix.
        alt: what it shows, for readers who do not see it.
        light: PNG.
        dark: PNG.
    """

    name: str
    alt: str
    light: bytes
    dark: bytes


def shown(text: str) -> str:
    """A name as it fits beside a picture."""
    plain = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST // 2 - 1]}…{plain[-_LONGEST // 2 :]}"


def lines(name: str, alt: str, positions: Sequence[str], series: Mapping[str, Sequence[float]], label: str) -> Picture:
    """One line per series over the positions, from 0 on.

    Args:
        name: of the file.
        alt: what it shows.
        positions: names along the horizontal axis; layers, say.
        series: values by name.
        label: of the vertical axis.
    """
    ncols = 2 if max(len(shown(each)) for each in series) <= _LETTERS // 2 else 1

    def draw(figure: Figure, theme: Theme) -> None:
        panel = _panel(figure, theme)
        for i, values in enumerate(series.values()):
            colour, style = theme.tasks[i % len(theme.tasks)], _LINES[i // len(theme.tasks) % len(_LINES)]
            panel.plot(
                range(len(values)), values, color=colour, linestyle=style, linewidth=1.3, marker=".", markersize=5
            )
        step = math.ceil(len(positions) / _TICKS)
        panel.set_xticks(range(0, len(positions), step), [shown(each) for each in positions[::step]])
        panel.tick_params(axis="x", labelrotation=0 if sum(map(len, positions[::step])) <= _LETTERS else 60)
        panel.set_ylabel(label)
        panel.set_ylim(bottom=0)
        panel.grid(axis="y", color=theme.faint, linewidth=0.6)
        panel.set_axisbelow(True)
        legend = figure.legend(
            panel.get_lines(), [shown(each) for each in series], loc="outside lower center", ncols=ncols, frameon=False
        )
        for text in legend.get_texts():
            text.set_color(theme.ink)

    return _picture(name, alt, 3.0 + 0.2 * math.ceil(len(series) / ncols), draw)


def shades(
    name: str,
    alt: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    write: Callable[[float], str],
    ends: tuple[float, float] | None = None,
) -> Picture:
    """A heat map with its numbers.

    Args:
        name: of the file.
        alt: what it shows.
        rows: their names.
        columns: theirs.
        values: by row and column; None leaves a field empty.
        write: a number as text.
        ends: values of the lightest and the darkest shade; None: the least and the greatest.
    """
    known = [value for row in values for value in row if value is not None]
    least, greatest = ends or (min(known, default=0.0), max(known, default=0.0))

    def draw(figure: Figure, theme: Theme) -> None:
        panel = _panel(figure, theme)
        field = [[math.nan if value is None else value for value in row] for row in values]
        image = panel.imshow(field, cmap=theme.shades, aspect="auto", vmin=least, vmax=max(greatest, least + 1e-9))
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                if value is not None and len(columns) <= _TICKS:
                    ink = _readable(image.cmap(image.norm(value)))
                    panel.text(j, i, write(value), ha="center", va="center", fontsize=9, color=ink)
        if len(columns) <= _TICKS:
            panel.set_xticks(range(len(columns)), [shown(each) for each in columns], rotation=45, ha="right")
        else:  # numbers, which the rows or a table explain
            panel.set_xticks(range(len(columns)), [shown(each.partition(" ")[0]) for each in columns], rotation=90)
        panel.set_yticks(range(len(rows)), [shown(each) for each in rows])
        panel.tick_params(length=0)

    return _picture(name, alt, 1.3 + 0.28 * len(rows), draw)


def _readable(colour: Sequence[float]) -> str:
    red, green, blue = colour[:3]
    return "#111111" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#f5f5f5"


def _panel(figure: Figure, theme: Theme) -> Any:
    panel = figure.subplots()
    panel.set_facecolor(theme.paper)
    for spine in panel.spines.values():
        spine.set_visible(False)
    panel.tick_params(colors=theme.ink)
    panel.yaxis.label.set_color(theme.ink)
    return panel


def _picture(name: str, alt: str, height: float, draw: Callable[[Figure, Theme], None]) -> Picture:
    def render(theme: Theme) -> bytes:
        stream = io.BytesIO()
        with rc_context(_RC), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # letters that the font lacks are drawn as boxes
            figure = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor=theme.paper)
            draw(figure, theme)
            figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
        return stream.getvalue()

    return Picture(name, alt, render(LIGHT), render(DARK))
