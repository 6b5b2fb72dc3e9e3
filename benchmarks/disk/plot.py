"""The picture of ``disk_scaling.jsonl``: time by bytes, by models, by threads, and nothing but rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.disk.bars import SCALING
from benchmarks.records import Row

PICTURE = "disk_scaling.svg"
LEAST_SPEEDUP = 1.6
Lines = dict[str, dict[float, float]]


def lines(rows: Sequence[Row], series: str, storage: str) -> Lines:
    """Recipe → gigabytes or number of models → seconds; the latest row of each case counts.

    On tmpfs start-up is subtracted. The floor of the recipe that moves the most bytes is a line, too.
    """
    found: Lines = {}
    floor: dict[float, tuple[float, float]] = {}
    for row in _of(rows, series, storage):
        moved = sum(row["bytes"].values())
        x = moved / 1e9 if series == "bytes" else row["case"]["models"]
        started = row["startup"]["p50"] if storage == "tmpfs" else 0.0
        found.setdefault(row["case"]["recipe"], {})[x] = row["seconds"]["p50"] - started
        at = row["case"]["megabytes"] if series == "bytes" else x
        if moved >= floor.get(at, (0.0, 0.0))[0]:
            floor[at] = (moved, row["floor"]["p50"])
    if floor:
        found["floor of the most bytes"] = {
            (moved / 1e9 if series == "bytes" else x): seconds for x, (moved, seconds) in floor.items()
        }
    return {name: dict(sorted(points.items())) for name, points in found.items()}


def speedups(rows: Sequence[Row]) -> dict[str, Mapping[str, float]]:
    """Recipe → how much faster it is on two threads than on one."""
    return {row["case"]["recipe"]: row["speedup"] for row in _of(rows, "threads", "tmpfs")}


def data(rows: Sequence[Row]) -> dict[str, Any]:
    """All that the picture shows, by panel; only panels that have anything."""
    found: dict[str, Any] = {}
    for storage, kind in (("tmpfs", "tmpfs, start-up subtracted"), ("disk", "disk, cold")):
        found[f"seconds by GB moved: {kind}"] = lines(rows, "bytes", storage)
        found[f"seconds by models: {kind}"] = lines(rows, "models", storage)
    found["two threads over one: tmpfs"] = speedups(rows)
    return {title: panel for title, panel in found.items() if panel}


def digest(rows: Sequence[Row]) -> str:
    """What the picture carries, so that a stale one is found without drawing it."""
    return hashlib.sha256(json.dumps(data(rows)).encode()).hexdigest()


def is_current(rows: Sequence[Row], folder: Path) -> bool:
    """Whether the picture is that of the rows; without rows there is to be none."""
    path = folder / PICTURE
    if not data(rows):
        return not path.exists()
    return path.exists() and digest(rows) in path.read_text(encoding="utf-8")


def draw(rows: Sequence[Row], folder: Path) -> Path | None:
    """Write the picture; None where there are no rows for it."""
    panels = data(rows)
    if not panels:
        return None
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = SCALING  # the same rows, the same file
    from matplotlib import pyplot

    columns = min(3, len(panels))
    height = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(height, columns, figsize=(4.5 * columns, 3.6 * height), squeeze=False)
    for axis, (title, panel) in zip(axes.flat, panels.items(), strict=False):
        axis.set_title(title, fontsize="medium")
        if title.startswith("two threads"):
            _bars(axis, panel)
        else:
            _curves(axis, panel, logarithmic="GB" in title)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    figure.tight_layout()
    path = folder / PICTURE
    figure.savefig(path, metadata={"Date": None, "Description": digest(rows)})
    pyplot.close(figure)
    return path


def _of(rows: Sequence[Row], series: str, storage: str) -> list[Row]:
    """The latest row of each case of a series, in the order in which the cases were first measured."""
    latest: dict[str, Row] = {}
    for row in rows:
        if row["op"] == SCALING and row["contender"] == series and row["case"]["storage"] == storage:
            latest[json.dumps(row["case"], sort_keys=True)] = row
    return list(latest.values())


def _curves(axis: Any, panel: Lines, *, logarithmic: bool) -> None:
    for name, points in panel.items():
        floor = name.startswith("floor")
        axis.plot(*zip(*points.items(), strict=True), marker=".", label=name, **({"color": "gray"} if floor else {}))
    if logarithmic:
        axis.set(xscale="log", yscale="log", xlabel="GB read and written", ylabel="s")
    else:
        axis.set(xlabel="models", ylabel="s", xlim=(0, None), ylim=(0, None))
    axis.legend(fontsize="small")


def _bars(axis: Any, panel: Mapping[str, Mapping[str, float]]) -> None:
    heights = [figures["p50"] for figures in panel.values()]
    spread = [[f["p50"] - f["p20"] for f in panel.values()], [f["p80"] - f["p50"] for f in panel.values()]]
    axis.bar(range(len(panel)), heights, yerr=spread, width=0.6)
    axis.set_xticks(range(len(panel)), panel, rotation=20, ha="right")
    axis.axhline(LEAST_SPEEDUP, color="gray", linewidth=0.8)
    axis.set_ylabel("times as fast")
