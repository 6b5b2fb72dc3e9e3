"""The tables of docs/reliability.md, from what the runs counted: docs/reliability/*.json, and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "docs" / "reliability"
NOTHING = "Nothing was recorded yet."


def recorded(name: str) -> Any:
    """What a run wrote; None where none has."""
    path = DATA / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown; cells are escaped."""
    lines = [head, ["---"] * len(head), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _cell(cell: object) -> str:
    text = f"{cell:,}" if isinstance(cell, int) else str(cell)
    for mark in "\\|*_<>[]`$":
        text = text.replace(mark, f"\\{mark}")
    return text


def attacks_section() -> str:
    """One row per attack, and how many there are of each kind."""
    rows = recorded("attacks")
    if rows is None:
        return NOTHING
    families = Counter(row["family"] for row in rows)
    counted = table(("kind", "attacks"), [*families.items(), ("all", len(rows))])
    keys = ("family", "name", "expected", "observed")
    listed = table(("kind", "attack", "expected", "observed"), ([row[key] for key in keys] for row in rows))
    return f"{counted}\n\n{listed}"


def _totals(recipes: Mapping[str, Any], kind: str, part: str = "totals") -> list[tuple[str, ...]]:
    """Per key, one number per recipe and their sum."""
    names = dict.fromkeys(key for each in recipes.values() for key in each.get(kind, {}).get(part, {}))
    rows = []
    for name in names:
        numbers = [each.get(kind, {}).get(part, {}).get(name, 0) for each in recipes.values()]
        rows.append((name, *(f"{number:,}" for number in numbers), f"{sum(numbers):,}"))
    return rows


def torture_section() -> str:
    """Kills, signals, full disks and failing calls, per recipe."""
    run = recorded("torture")
    if run is None:
        return NOTHING
    recipes = run["recipes"]
    parts = []
    for title, kind, part in (
        ("Kills", "kills", "totals"),
        ("Where the merge was when it was killed", "kills", "stages"),
        ("Signals", "signals", "totals"),
        ("Full disks", "disks", "totals"),
        ("Calls that failed once, by what they came to", "faults", "totals"),
    ):
        rows = _totals(recipes, kind, part)
        if rows:
            parts.append(f"{title}:\n\n{table(('', *recipes, 'all'), rows)}")
    parts.append(f"Models of {run['megabytes']:g} MB, seed {run['seed']}. Every trial ended in the same bits.")
    return "\n\n".join(parts)


def fuzz_section() -> str:
    """Executions per target."""
    counts = recorded("fuzz")
    if counts is None:
        return NOTHING
    rows = [(target, each["executions"], each["reached"]) for target, each in counts.items()]
    total = sum(each["executions"] for each in counts.values())
    return table(("target", "executions", "edges reached"), [*rows, ("all", total, "")])


def sanitizer_section() -> str:
    """Tests that ran under each sanitizer."""
    runs = recorded("sanitizers")
    if runs is None:
        return NOTHING
    rows = [(name, run["passed"], run["inputs"], run["reports"]) for name, run in runs.items()]
    return table(("sanitizers", "tests passed", "inputs replayed", "reports"), rows)


SECTIONS = {
    "attacks": attacks_section,
    "torture": torture_section,
    "fuzz": fuzz_section,
    "sanitizers": sanitizer_section,
}
