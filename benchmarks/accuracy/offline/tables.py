"""Tables of the offline suite in Markdown, from rows alone: shares in percent, differences in points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.accuracy.offline.recorded import INDIVIDUAL, PRETRAINED, Recorded
from benchmarks.records import Row
from benchmarks.tables import markdown

Found = Mapping[str, Any]
NOTHING = "–"
VERSUS = {"sta_lp": "minus STA LP", "task_arithmetic": "minus task arithmetic"}
MATRICES = ("attn.query", "attn.key", "attn.value", "attn.out", "mlp.fc1", "mlp.fc2")


def percent(share: float, digits: int = 1) -> str:
    """A share in percent."""
    return f"{100 * share:.{digits}f}"


def plus_minus(found: Found) -> str:
    """A share with its standard errors: over images and, in brackets, over seeds."""
    return f"{percent(found['mean'])} ± {errors(found)}"


def signed(found: Found) -> str:
    """A difference with its standard errors."""
    return f"{100 * found['mean']:+.2f} ± {errors(found, 2)}"


def errors(found: Found, digits: int = 1) -> str:
    """Standard error over images and, in brackets, over seeds where there are several."""
    seeds = "" if found["seeds"] is None else f" ({percent(found['seeds'], digits)})"
    return percent(found["images"], digits) + seeds


def mean(numbers: Sequence[float]) -> float:
    """Over seeds."""
    return sum(numbers) / len(numbers)


def title(row: Row) -> str:
    """The merge's title, with the coefficients that were chosen by the seeds."""
    text = str(row["title"]).replace("|", r"\|")
    if "value" in row:
        text += f" [{', '.join(dict.fromkeys(map(_plain, row['value'])))}]"
    return text


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else "-".join(map(str, value))


def by_average(rows: Sequence[Row]) -> list[Row]:
    """Best first."""
    return sorted(rows, key=lambda row: -row["average"]["mean"])


def merging(recorded: Recorded) -> str:
    """Every method, task by task."""
    ends = [recorded[name] for name in (PRETRAINED, INDIVIDUAL) if name in recorded]
    rest = [row for row in recorded.section("merging") if row["contender"] != PRETRAINED]
    lines = [["merge", *recorded.tasks, "average", "normalised", *VERSUS.values()]]
    for row in (*ends, *by_average(rest)):
        name = "fine-tuned, each on its own task" if row["family"] else title(row)
        accuracies = [percent(mean(row["accuracy"][task])) for task in recorded.tasks]
        share = percent(mean(row["normalised"])) if "normalised" in row else NOTHING
        lines.append([name, *accuracies, plus_minus(row["average"]), share, *_differences(row, VERSUS)])
    return markdown(lines)


def compared(recorded: Recorded, section: str, *also: str) -> str:
    """One section's merges beside others of the main table: average and differences alone."""
    rows = [*(recorded[name] for name in also if name in recorded), *recorded.section(section)]
    references = {name: text for name, text in VERSUS.items() if any(name in row.get("versus", {}) for row in rows)}
    lines = [["merge", "average", *references.values()]]
    for row in rows:
        lines.append([title(row), plus_minus(row["average"]), *_differences(row, references)])
    return markdown(lines)


def _differences(row: Row, references: Mapping[str, str]) -> list[str]:
    versus = row.get("versus", {})
    return [signed(versus[name]["average"]) if name in versus else NOTHING for name in references]


def before(row: Row, what: str) -> float:
    """The pretrained model's share on the images of a forgetting's target or control."""
    return float(row[what]["mean"] - row["versus"][PRETRAINED][what]["mean"])


def forgetting(recorded: Recorded) -> str:
    """Over all tasks: how far the target went down, and the mean of the other tasks."""
    families = recorded.families("forgetting")
    lines = [["forgetting", "target", "control", "target minus pretrained", "control minus pretrained"]]
    start = [percent(before(families[0], what)) for what in ("average", "control")]
    lines.append([title(recorded[PRETRAINED]), *start, NOTHING, NOTHING])
    for row in families:
        versus = row["versus"][PRETRAINED]
        lines.append(
            [title(row), plus_minus(row["average"]), plus_minus(row["control"])]
            + [signed(versus[what]) for what in ("average", "control")]
        )
    return markdown(lines)


def forgetting_by_task(recorded: Recorded) -> str:
    """Target and control of each task, by method."""
    families = recorded.families("forgetting")
    lines = [["forgotten", "pretrained", *(f"{title(row)}: target, control" for row in families)]]
    for task in recorded.tasks:
        rows = [recorded[f"{family['contender']}-{task}"] for family in families]
        cells = [task, percent(before(rows[0], "average"))]
        for row in rows:
            change = row["versus"][PRETRAINED]
            cells.append(
                f"{percent(row['average']['mean'])} ({100 * change['average']['mean']:+.1f}), "
                f"{percent(row['control']['mean'])} ({100 * change['control']['mean']:+.1f})"
            )
        lines.append(cells)
    return markdown(lines)


def pairs(recorded: Recorded) -> str:
    """The average of the two tasks, by pair and method."""
    families = recorded.families("pairs")
    lines = [["pair", *(title(row) for row in families)]]
    for row in recorded.section("pairs"):
        if row["contender"].startswith(families[0]["contender"] + "-"):
            end = row["contender"].removeprefix(families[0]["contender"])
            cells = [recorded[family["contender"] + end]["average"] for family in families]
            lines.append([" + ".join(row["of"]), *(percent(cell["mean"]) for cell in cells)])
    lines.append(["all pairs", *(plus_minus(row["average"]) for row in families)])
    reference = "pair-sta_lp"
    differences = [row.get("versus", {}).get(reference) for row in families]
    lines.append(["minus STA LP", *(signed(each["average"]) if each else NOTHING for each in differences)])
    return markdown(lines)


def single(recorded: Recorded) -> str:
    """Methods that yield a model of one task."""
    lines = [["model", "its task", "normalised", "the next task"]]
    for row in recorded.families("single"):
        share = percent(mean(row["normalised"]))
        lines.append([title(row), plus_minus(row["average"]), share, plus_minus(row["control"])])
    return markdown(lines)


def rates(recorded: Recorded, contender: str) -> dict[str, dict[str, float]]:
    """Kind of tensor → task → share of the entries that the task keeps, mean over the blocks (all of one shape)."""
    gathered: dict[str, list[Sequence[float]]] = {}
    for name, shares in recorded[contender]["kept"].items():
        _, _, kind = name.removeprefix("blocks.").partition(".")
        gathered.setdefault(kind, []).append(shares)
    return {
        kind: {task: mean([each[i] for each in blocks]) for i, task in enumerate(recorded.tasks)}
        for kind, blocks in gathered.items()
    }


def selection(recorded: Recorded, contender: str) -> str:
    """Share of the entries of the matrices that each task keeps."""
    lines = [["matrix", *recorded.tasks]]
    found = rates(recorded, contender)
    for kind in MATRICES:
        lines.append([f"`{kind}`", *(percent(found[f"{kind}.weight"][task]) for task in recorded.tasks)])
    return markdown(lines)
