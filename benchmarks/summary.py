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
from benchmarks.records import Row


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
    print(bar_table(listed, findings))
    print()
    print(provenance([finding.row for finding in findings if finding is not None]))
    return 0 if all(finding is not None and finding.holds for finding in findings) else 1


def bar_table(listed: Sequence[Bar], findings: Sequence[Finding | None]) -> str:
    """Markdown: one line per bar."""
    lines = [("what", "needs", "measured: medians (p20 to p80)", "")]
    for bar, finding in zip(listed, findings, strict=True):
        if finding is None:
            lines.append((bar.what, bar.needs, "", "not measured"))
        else:
            lines.append((bar.what, bar.needs, finding.text, "pass" if finding.holds else "**falls short**"))
    return markdown(lines)


def provenance(rows: Sequence[Row]) -> str:
    """Where the figures of a table come from: revisions, machines, dates, versions."""
    said = {
        f"{row['time'][:10]}, revision {row['revision']}, sta_kernels {row['versions']['sta_kernels']} "
        f"({row['machine']['isa']}), torch {row['versions']['torch']}, {row['machine']['processor']}, "
        f"{row['machine']['cores']} cores"
        for row in rows
    }
    return "\n".join(f"Measured {each}." for each in sorted(said)) or "Nothing has been measured at these sizes."


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


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table with aligned columns; the first line is its head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    text.insert(1, " | ".join("-" * max(3, width) for width in widths))
    return "\n".join(f"| {line} |" for line in text)


if __name__ == "__main__":
    sys.exit(main())
