"""One paragraph on what the rows show and do not show; every number and every verdict in it is computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.accuracy.offline.recorded import PRETRAINED, Recorded
from benchmarks.accuracy.offline.tables import by_average, percent
from benchmarks.records import Row

CLEAR = 2.0
"""Standard errors that a difference must be away from zero to be called one."""
Found = Mapping[str, Any]


def error(found: Found) -> float:
    """The greater of the two standard errors."""
    return max(float(found["images"]), float(found["seeds"] or 0.0))


def is_clear(found: Found) -> bool:
    """Whether a difference is more than two standard errors, of the greater kind, away from zero."""
    return abs(found["mean"]) > CLEAR * error(found)


def points(found: Found) -> str:
    """A difference in points with the greater of its standard errors."""
    mean = round(100 * found["mean"], 1) + 0.0  # no −0.0
    return f"{mean:+.1f} ± {100 * error(found):.1f}"


def verdict(found: Found) -> str:
    """A difference, and whether it is one."""
    return f"{points(found)} points{'' if is_clear(found) else ', which is no clear difference'}"


def paragraph(recorded: Recorded) -> str:
    """All sentences that the rows suffice for."""
    sentences = [_main(recorded), _methods(recorded)]
    for section, say in (
        ("controls", _controls),
        ("beyond", _beyond),
        ("samples", _samples),
        ("p", _sweep),
        ("forgetting", _forgetting),
        ("pairs", _pairs),
    ):
        if recorded.section(section):
            sentences.append(say(recorded))
    sentences.append(
        f"A difference is called clear beyond {CLEAR:g} standard errors, the greater of that over images and that over "
        f"{recorded.seeds} seeds; among so many comparisons some are that by chance. This is one small model, "
        f"{recorded.case['steps']} steps of fine-tuning and tasks of little pictures: it says nothing of the "
        "paper's own models and data sets."
    )
    return " ".join(sentences)


def _main(recorded: Recorded) -> str:
    against = recorded["sta_lp"]["versus"]["task_arithmetic"]["average"]
    return (
        f"The pretrained model gets {percent(recorded.average(PRETRAINED))} % right on average, the fine-tuned ones on "
        f"their own tasks {percent(recorded.average('individual'))} %, STA as the paper has it (LP, p = 0.7) "
        f"{percent(recorded.average('sta_lp'))} %, and task arithmetic with its coefficient chosen "
        f"{percent(recorded.average('task_arithmetic'))} %: STA against that {verdict(against)}."
    )


def _methods(recorded: Recorded) -> str:
    others = [row for row in recorded.section("merging") if not row["contender"].startswith(("sta_", PRETRAINED))]
    better = [row for row in others if _from_sta(row)["mean"] > 0 and is_clear(_from_sta(row))]
    worse = [row for row in others if _from_sta(row)["mean"] < 0 and is_clear(_from_sta(row))]
    best = by_average(others)[0]
    return (
        f"Of {len(others)} other merges, {len(better)} are clearly better than STA LP{_listed(better)}, {len(worse)} "
        f"clearly worse; the best is {best['title']} ({verdict(_from_sta(best))})."
    )


def _listed(rows: Sequence[Row]) -> str:
    return f" ({', '.join(row['title'] for row in by_average(rows))})" if rows else ""


def _from_sta(row: Row) -> Found:
    return dict(row["versus"]["sta_lp"]["average"])


def _controls(recorded: Recorded) -> str:
    parts = [f"{row['title']} {points(_from_sta(row))}" for row in recorded.section("controls")]
    clear = [row for row in recorded.section("controls") if is_clear(_from_sta(row))]
    return (
        f"What the importance itself contributes is the difference from masks of the same density by something else: "
        f"{', '.join(parts)} points against STA LP, {_how_many(len(clear), len(parts))} clear."
    )


def _how_many(some: int, total: int) -> str:
    return "none of them" if some == 0 else "all of them" if some == total else f"{some} of the {total}"


def _beyond(recorded: Recorded) -> str:
    rows = recorded.section("beyond")
    better = [row for row in rows if _from_sta(row)["mean"] > 0 and is_clear(_from_sta(row))]
    best = by_average(rows)[0]
    return (
        f"Of {len(rows)} variants beyond the paper, {len(better)} are clearly better than STA LP; the best is "
        f"{best['title']} ({verdict(_from_sta(best))}; the best of several, picked after the test, is flattered)."
    )


def _samples(recorded: Recorded) -> str:
    rows = recorded.section("samples")
    parts = [f"{row['title']} {points(_from_sta(row))}" for row in rows]
    clear = [row for row in rows if is_clear(_from_sta(row))]
    return f"Against 32 samples of importance: {', '.join(parts)} points, {_how_many(len(clear), len(rows))} clear."


def _sweep(recorded: Recorded) -> str:
    rows = [row for row in recorded.section("p") if row["contender"].startswith("keep-lp-")]
    parts = [f"{row['title']} {points(_from_sta(row))}" for row in rows]
    return f"The other outcomes of p against p = 0.7: {', '.join(parts)} points."


def _forgetting(recorded: Recorded) -> str:
    parts = []
    for row in recorded.families("forgetting"):
        against = row["versus"][PRETRAINED]
        parts.append(f"{row['title']} {points(against['average'])} and {points(against['control'])}")
    return f"Forgetting changes target and control, mean over the tasks, by: {'; '.join(parts)} points."


def _pairs(recorded: Recorded) -> str:
    parts = []
    for row in recorded.families("pairs"):
        if "versus" in row:
            found = row["versus"]["pair-sta_lp"]["average"]
            parts.append(f"{row['title']} {points(found)}")
    return f"Over all pairs, against STA LP: {', '.join(parts)} points."
