"""The pictures of ``docs/results``: from rows and from nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.accuracy.offline.prose import error
from benchmarks.accuracy.offline.recorded import PRETRAINED, Recorded
from benchmarks.accuracy.offline.tables import by_average, rates

DOTS_PER_INCH = 80
MEASURES = {"sta_lp": "STA LP", "sta_amp": "STA Amp", "sta_lp_amp": "STA LP+Amp"}
FORGETTING = {"forget-lp": "STA", "forget-random": "random entries", "forget-negation": "negation"}
GREY = "0.6"
Panel = dict[str, Any]


def merging(recorded: Recorded) -> Panel:
    """Difference from STA LP by method, image by image, with its greater standard error."""
    rows = [row for row in recorded.section("merging") if row["contender"] not in (PRETRAINED, "sta_lp")]
    found = {row["title"]: row["versus"]["sta_lp"]["average"] for row in reversed(by_average(rows))}
    return {title: [each["mean"], error(each)] for title, each in found.items()}


def settings(recorded: Recorded) -> Panel:
    """Average by tasks kept, by measure; difference from 32 samples by number of samples."""
    n_tasks = len(recorded.tasks)
    panel: Panel = {"kept": {}, "samples": {}}
    for measure in ("lp", "amp"):
        found = {0: recorded[PRETRAINED]["average"]}
        for keep in range(1, n_tasks):
            name = f"keep-{measure}-{keep}"
            found[keep] = recorded[name if name in recorded else f"sta_{measure}"]["average"]
        panel["kept"][MEASURES[f"sta_{measure}"]] = [
            [keep, each["mean"], each["images"]] for keep, each in found.items()
        ]
    counts = {32: {"mean": 0.0, "images": 0.0}}
    for row in recorded.section("samples"):
        _, _, count = row["contender"].partition("-")
        if count.isdecimal():
            counts[int(count)] = row["versus"]["sta_lp"]["average"]
    panel["samples"] = [[count, each["mean"], each["images"]] for count, each in sorted(counts.items())]
    return panel


def pairs(recorded: Recorded) -> Panel:
    """Average of the two tasks, by method and pair."""
    found: Panel = {}
    for family in recorded.families("pairs"):
        found[family["title"]] = {
            " + ".join(row["of"]): [row["average"]["mean"], row["average"]["images"]]
            for row in recorded.section("pairs")
            if row["title"] == family["title"]
        }
    return found


def forgetting(recorded: Recorded) -> Panel:
    """Change of target and control, by method and task."""
    found: Panel = {}
    for family, name in FORGETTING.items():
        found[name] = {
            task: [recorded.versus(f"{family}-{task}", PRETRAINED, what)["mean"] for what in ("average", "control")]
            for task in recorded.tasks
        }
    return found


def selection(recorded: Recorded) -> Panel:
    """Share of each kind of tensor that each task keeps, by measure."""
    return {name: rates(recorded, contender) for contender, name in MEASURES.items()}


PICTURES: dict[str, tuple[Callable[[Recorded], Panel], str]] = {
    "merging.png": (merging, "merging"),
    "settings.png": (settings, "p"),
    "pairs.png": (pairs, "pairs"),
    "forgetting.png": (forgetting, "forgetting"),
    "selection.png": (selection, "merging"),
}
"""File → what it shows, and the section that it needs."""


def digest(panel: Panel) -> str:
    """What a picture carries, so that a stale one is found without drawing it."""
    return hashlib.sha256(json.dumps(panel).encode()).hexdigest()


def panels(recorded: Recorded) -> dict[str, Panel]:
    """What each picture that the rows suffice for shows."""
    return {name: show(recorded) for name, (show, section) in PICTURES.items() if recorded.section(section)}


def stale(recorded: Recorded, folder: Path) -> list[str]:
    """Names of pictures that are not those of the rows, missing or left over ones included."""
    wanted = panels(recorded)
    found = {path.name: path.read_bytes() for path in folder.glob("*.png") if path.name in PICTURES}
    return [
        name
        for name in PICTURES
        if (name in wanted) != (name in found) or (name in wanted and digest(wanted[name]).encode() not in found[name])
    ]


def draw(recorded: Recorded, folder: Path) -> None:
    """Write the pictures that are stale, and remove what the rows do not show."""
    wanted = panels(recorded)
    for name in stale(recorded, folder):
        if name not in wanted:
            (folder / name).unlink()
            continue
        folder.mkdir(parents=True, exist_ok=True)
        figure = DRAWING[name](wanted[name])
        figure.savefig(
            folder / name, dpi=DOTS_PER_INCH, metadata={"Description": digest(wanted[name]), "Software": None}
        )


def _figure(columns: int, width: float, height: float, *, sharey: bool = False) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False, sharey=sharey)[0])


def _draw_merging(panel: Panel) -> Any:
    figure, (axis,) = _figure(1, 8, 0.26 * len(panel) + 1)
    for place, (title, (mean, spread)) in enumerate(panel.items()):
        color = "tab:orange" if title.startswith("STA") else "tab:blue"
        axis.errorbar(100 * mean, place, xerr=100 * spread, fmt="o", color=color)
    axis.set_yticks(range(len(panel)), panel)
    axis.axvline(0, color=GREY, linewidth=0.8)
    axis.set_xlabel("points against STA LP, p = 0.7")
    axis.grid(axis="x", alpha=0.3)
    return figure


def _draw_settings(panel: Panel) -> Any:
    figure, (left, right) = _figure(2, 9, 3.2)
    for name, points in panel["kept"].items():
        x, means, errors = zip(*points, strict=True)
        left.errorbar(x, [100 * each for each in means], yerr=[100 * each for each in errors], marker="o", label=name)
    left.set_xticks(x, x)
    left.set(xlabel="tasks kept at a position", ylabel="average accuracy, %")
    left.legend()
    x, means, errors = zip(*panel["samples"], strict=True)
    right.errorbar(x, [100 * each for each in means], yerr=[100 * each for each in errors], marker="o")
    right.axhline(0, color=GREY, linewidth=0.8)
    right.set_xscale("log", base=2)
    right.set_xticks(x, x)
    right.set(xlabel="samples of importance", ylabel="points against 32 samples")
    return figure


def _draw_pairs(panel: Panel) -> Any:
    figure, (axis,) = _figure(1, 10, 3.6)
    names: list[str] = []
    for i, (title, by_pair) in enumerate(panel.items()):
        names = list(by_pair)
        means, errors = zip(*by_pair.values(), strict=True)
        places = [place + (i - (len(panel) - 1) / 2) * 0.15 for place in range(len(names))]
        axis.errorbar(
            places, [100 * each for each in means], yerr=[100 * each for each in errors], fmt="o", label=title
        )
    axis.set_xticks(range(len(names)), names, rotation=25, ha="right")
    axis.set_ylabel("accuracy, mean of the two, %")
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize="small", ncols=len(panel), loc="lower center", bbox_to_anchor=(0.5, 1))
    return figure


def _draw_forgetting(panel: Panel) -> Any:
    figure, axes = _figure(2, 9, 3.2, sharey=True)
    width = 0.8 / len(panel)
    for axis, which, title in zip(axes, (0, 1), ("target", "control: mean of the others"), strict=True):
        tasks: list[str] = []
        for i, (method, by_task) in enumerate(panel.items()):
            tasks = list(by_task)
            places = [place + (i - (len(panel) - 1) / 2) * width for place in range(len(tasks))]
            axis.bar(places, [100 * values[which] for values in by_task.values()], width, label=method)
        axis.set_xticks(range(len(tasks)), tasks, rotation=20, ha="right")
        axis.axhline(0, color=GREY, linewidth=0.8)
        axis.set(title=title, ylabel="points against pretrained")
    axes[0].legend(fontsize="small")
    return figure


def _draw_selection(panel: Panel) -> Any:
    figure, axes = _figure(len(panel), 10, 4.2)
    most = max(share for kinds in panel.values() for shares in kinds.values() for share in shares.values())
    for number, (axis, (measure, kinds)) in enumerate(zip(axes, panel.items(), strict=True)):
        tasks = list(next(iter(kinds.values())))
        grid = [[100 * shares[task] for task in tasks] for shares in kinds.values()]
        image = axis.imshow(grid, aspect="auto", vmin=0, vmax=100 * most, cmap="viridis")
        axis.set_title(measure, fontsize="medium")
        axis.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right")
        axis.set_yticks(range(len(kinds)), kinds if number == 0 else [""] * len(kinds))
    figure.colorbar(image, ax=axes, label="entries kept, %")
    return figure


DRAWING: Mapping[str, Callable[[Panel], Any]] = {
    "merging.png": _draw_merging,
    "settings.png": _draw_settings,
    "pairs.png": _draw_pairs,
    "forgetting.png": _draw_forgetting,
    "selection.png": _draw_selection,
}
