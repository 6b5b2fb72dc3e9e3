"""Tables in Markdown, and where their figures come from."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.records import Row


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table with aligned columns; the first line is its head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    text.insert(1, " | ".join("-" * max(3, width) for width in widths))
    return "\n".join(f"| {line} |" for line in text)


def provenance(rows: Sequence[Row]) -> str:
    """Where the figures of a table come from: revisions, machines, dates, versions."""
    said = {
        f"{row['time'][:10]}, revision {row['revision']}, sta_kernels {row['versions']['sta_kernels']} "
        f"({row['machine']['isa']}), torch {row['versions']['torch']}, {row['machine']['processor']}, "
        f"{row['machine']['cores']} cores"
        for row in rows
    }
    return "\n".join(f"Measured {each}." for each in sorted(said)) or "Nothing has been measured at these sizes."
