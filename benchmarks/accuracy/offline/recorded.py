"""The rows that a page is made of: the latest of each merge, of the latest run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.accuracy.offline.collect import OP, SUITE
from benchmarks.records import Row

INDIVIDUAL = "individual"
PRETRAINED = "pretrained"


class Recorded:
    """Rows by the name of what was merged.

    Args:
        rows: any; those of other suites, and of runs with other tasks, seeds or sizes than the last one, are left out.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        ours = [row for row in rows if row["op"] == OP and row["case"]["suite"] == SUITE]
        self.case: Mapping[str, Any] = ours[-1]["case"] if ours else {}
        self.rows: dict[str, Row] = {row["contender"]: row for row in ours if row["case"] == self.case}

    def __bool__(self) -> bool:
        return bool(self.rows)

    def __getitem__(self, contender: str) -> Row:
        return self.rows[contender]

    def __contains__(self, contender: str) -> bool:
        return contender in self.rows

    @property
    def tasks(self) -> list[str]:
        """In the order in which they were merged."""
        return list(self.case["tasks"])

    @property
    def seeds(self) -> int:
        """How many."""
        return len(self.case["seeds"])

    def section(self, name: str) -> list[Row]:
        """A section's rows, those of families left out."""
        return [row for row in self.rows.values() if row["section"] == name and not row["family"]]

    def families(self, name: str) -> list[Row]:
        """A section's rows over all tasks or pairs."""
        return [row for row in self.rows.values() if row["section"] == name and row["family"]]

    def average(self, contender: str) -> float:
        """Mean accuracy."""
        return float(self.rows[contender]["average"]["mean"])

    def versus(self, contender: str, reference: str, what: str = "average") -> Mapping[str, Any]:
        """A paired difference."""
        return dict(self.rows[contender]["versus"][reference][what])
