"""The picture of ``gpu-sta_merge.jsonl``: share of a copy's bandwidth by number of tasks, and nothing but rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.timing import COPY
from benchmarks.records import Row

PICTURE = "gpu-sta_merge.png"


def shares(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, dict[int, float]]]:
    """(gpu, model) → dtypes → N → share of the copy's bandwidth; the latest row of each case counts."""
    found: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for row in rows:
        case = row["case"]
        if row["op"] == "gpu-sta_merge" and row["contender"] == COPY and case["normaliser"] == "given":
            panel = found.setdefault((row["machine"]["gpu"], case["model"]), {})
            panel.setdefault(f"{case['weights']}, {case['importances']}", {})[case["models"]] = row["share"]["medians"]
    return found


def draw(rows: Sequence[Row], folder: Path) -> Path | None:
    """Write the picture; None where there are no rows for it."""
    panels = shares(rows)
    if not panels:
        return None
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.5 * len(panels), 3.5), sharey=True, squeeze=False)
    for axis, ((gpu, model), lines) in zip(axes[0], panels.items(), strict=True):
        for label, points in lines.items():
            numbers = sorted(points)
            axis.plot(numbers, [points[n] for n in numbers], marker="o", label=label)
        axis.set(title=f"{model}, {gpu}", xlabel="tasks", ylim=(0, None))
        axis.axhline(1.0, color="gray", linewidth=0.5)
    axes[0][0].set_ylabel("bandwidth, of a copy's")
    axes[0][0].legend(title="weights, importances", fontsize="small")
    figure.tight_layout()
    path = folder / PICTURE
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return path
