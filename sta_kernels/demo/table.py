"""The table, from the numbers of one run and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def percent(share: float) -> str:
    """A share with one decimal."""
    return f"{100 * share:.1f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up as plain text; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return f"| {' | '.join(cells)} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([line(rows[0]), f"|{rule}|", *map(line, rows[1:])])


def standard_error(share: float, count: int) -> float:
    """Of a share that was counted on ``count`` independent images."""
    return (share * (1 - share) / count) ** 0.5


def render(results: Mapping[str, Any]) -> str:
    """The table and what has to be said with it.

    Args:
        results: what :func:`sta_kernels.demo.pipeline.demonstrate` returns and ``results.json`` holds.
    """
    tasks = [task["name"] for task in results["tasks"]]
    rows = [["model (accuracy in %)", *tasks, "average", "kept per task, %"]]
    for row in results["rows"]:
        kept = " / ".join(percent(share) for share in row["kept"].values()) if row["kept"] else "–"
        accuracies = [row["accuracy"][task] for task in tasks]
        rows.append([row["title"], *map(percent, accuracies), percent(sum(accuracies) / len(tasks)), kept])
    counts = {task["name"]: task["test"] for task in results["tasks"]}
    errors = [standard_error(row["accuracy"][task], counts[task]) for row in results["rows"] for task in tasks]
    return "\n".join(
        [
            aligned(rows),
            "",
            forgetting_line(results),
            f"Held-out images: {', '.join(f'{name} {count}' for name, count in counts.items())}; "
            f"the standard error of one accuracy is at most {percent(max(errors))} points. "
            f"Seed {results['seed']}, {results['steps']} steps per task.",
        ]
    )


def forgetting_line(results: Mapping[str, Any]) -> str:
    """What forgetting did to its target and to the other tasks, against the model it started from."""
    target = results["forgotten"]
    rows = {row["name"]: row["accuracy"] for row in results["rows"]}
    others = [task["name"] for task in results["tasks"] if task["name"] != target]
    aims, controls = [], []
    for name in ("pretrained", f"forget_{target}", f"negate_{target}"):
        aims.append(percent(rows[name][target]))
        controls.append(percent(sum(rows[name][other] for other in others) / len(others)))
    return (
        f"Forgetting {target}: target {aims[0]} → {aims[1]} (negation of the whole task vector: {aims[2]}), "
        f"control (mean of {' and '.join(others)}) {controls[0]} → {controls[1]} (negation: {controls[2]})."
    )
