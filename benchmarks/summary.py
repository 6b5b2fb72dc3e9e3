"""Hold the recorded rows against the project's bars.

    python -m benchmarks.summary                                          # the committed rows
    python -m benchmarks.summary --results /tmp/rows --elements 1000000   # a trial's

Exit code 0: every bar is reached; 1: one falls short, or was not measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bars, records
from benchmarks.bars import Bar, Finding
from benchmarks.disk import bars as disk_bars
from benchmarks.records import Row
from benchmarks.tables import markdown, provenance


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Hold benchmark rows against the project's bars.")
    parser.add_argument(
        "--results", type=Path, default=records.RESULTS, metavar="DIR", help="default: benchmarks/results"
    )
    parser.add_argument("--elements", type=int, default=bars.ELEMENTS, help="per tensor (default: 16 Mi)")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--megabytes", type=int, default=500, help="size of a checkpoint (default: 500)")
    arguments = parser.parse_args(argv)
    listed = bars.bars(arguments.elements, arguments.threads, arguments.megabytes)
    rows = records.read(arguments.results)
    findings = [bar.find(rows) for bar in listed]
    measured = [finding.row for finding in findings if finding is not None]
    print(bar_table(listed, findings), provenance(measured), sep="\n\n")
    print()
    print(disk_bars.table(rows), provenance(disk_bars.origin(rows)), sep="\n\n")
    kept = all(finding is not None and finding.holds for finding in findings)
    return 0 if kept and disk_bars.complete(rows) and disk_bars.reached(rows) else 1


def bar_table(listed: Sequence[Bar], findings: Sequence[Finding | None]) -> str:
    """Markdown: one line per bar."""
    lines = [("what", "needs", "measured: medians (p20 to p80)", "")]
    for bar, finding in zip(listed, findings, strict=True):
        if finding is None:
            lines.append((bar.what, bar.needs, "", "not measured"))
        else:
            lines.append((bar.what, bar.needs, finding.text, "pass" if finding.holds else "**falls short**"))
    return markdown(lines)


def contest_table(rows: Sequence[Row]) -> str:
    """Markdown: one line per contender of every contest."""
    lines = [("op", "case", "contender", "median ms", "p20 to p80", "GB/s", "op's share", "op is faster by")]
    for row in rows:
        seconds = row["seconds"]
        lines.append(
            (
                row["op"],
                describe(row["case"]),
                row["contender"],
                f"{seconds['p50'] * 1e3:.2f}",
                f"{seconds['p20'] * 1e3:.2f} to {seconds['p80'] * 1e3:.2f}",
                f"{row['bytes_per_second'] / 1e9:.1f}" if "bytes_per_second" in row else "",
                f"{row['share']['medians']:.3f}" if "share" in row else "",
                f"{row['speedup']['medians']:.2f}×",
            )
        )
    return markdown(lines)


def describe(case: Row) -> str:
    """A case in a few words."""
    return ", ".join(f"{key} {value}" for key, value in case.items() if key not in ("threads", "command"))


if __name__ == "__main__":
    sys.exit(main())
