"""Write the tables of README.md, docs/methods.md and docs/reliability.md from committed data and the registry alone.

    python -m scripts.readme_tables                    # write them
    python -m scripts.readme_tables --demo demo-out    # first take over what a run of `make demo` wrote
    python -m scripts.readme_tables --check            # write nothing; fail where the README would change

The demo's table comes from ``docs/demo/results.json``, those of the benchmarks and the picture of how merges scale
from ``benchmarks/results/*.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import bars, records
from benchmarks.disk import bars as disk_bars
from benchmarks.disk import plot
from benchmarks.summary import bar_table
from benchmarks.tables import provenance
from scripts.method_table import choice_table, method_table
from scripts.reliability_tables import SECTIONS
from sta_kernels.demo.table import render as demo_table

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
METHODS = ROOT / "docs" / "methods.md"
RELIABILITY = ROOT / "docs" / "reliability.md"
DEMO = ROOT / "docs" / "demo"
RESULTS = "results.json"
PICTURE = "selection_rate.png"


def demo_section(results: dict[str, Any]) -> str:
    """The demo's table, what produced it, and its picture."""
    versions, machine = results["versions"], results["machine"]
    made = (
        f"Written by `make demo` with sta_kernels {versions['sta_kernels']} and torch {versions['torch']} on "
        f"{machine['processor']}, {machine['threads']} threads, in {results['seconds']['total']:.0f} seconds."
    )
    picture = f"![Share of entries that each task keeps, by layer](docs/demo/{PICTURE})"
    return "\n\n".join((demo_table(results), made, picture))


def benchmark_section(rows: list[records.Row]) -> str:
    """Every bar and what was measured for it; where nothing was, a line that says so."""
    listed = bars.bars()
    findings = [bar.find(rows) for bar in listed]
    origin = provenance([finding.row for finding in findings if finding is not None])
    return f"{bar_table(listed, findings)}\n\n{origin}" if any(findings) else origin


def disk_section(rows: list[records.Row]) -> str:
    """Merges from files to files: their bars, what was measured for them, and the picture of how they scale."""
    origin = disk_bars.origin(rows)
    parts = [disk_bars.table(rows), provenance(origin)] if origin else [provenance(origin)]
    if plot.data(rows):
        parts.append(f"![Seconds by bytes, by models and by threads](benchmarks/results/{plot.PICTURE})")
    return "\n\n".join(parts)


def filled(text: str, name: str, content: str) -> str:
    """The text with ``content`` between the markers of that name.

    Raises:
        ValueError: the text has not exactly one such pair of markers.
    """
    pattern = re.compile(rf"(?<=<!-- {name}: written by `make readme` -->\n).*?(?=<!-- /{name} -->)", re.DOTALL)
    text, count = pattern.subn(lambda _: f"\n{content}\n\n", text)
    if count != 1:
        raise ValueError(f"expected the markers of {name!r} once, found them {count} times")
    return text


def take_over(run: Path) -> None:
    """Copy what table and picture come from out of a demo's output folder."""
    DEMO.mkdir(parents=True, exist_ok=True)
    for name in (RESULTS, PICTURE):
        shutil.copyfile(run / name, DEMO / name)


def written(text: str) -> str:
    """The README with all tables as their data say."""
    results = json.loads((DEMO / RESULTS).read_text(encoding="utf-8"))
    text = filled(text, "demo", demo_section(results))
    rows = records.read(records.RESULTS)
    return filled(filled(text, "disk", disk_section(rows)), "benchmarks", benchmark_section(rows))


def written_methods(text: str) -> str:
    """The page of methods with its tables as the registry says."""
    return filled(filled(text, "choice", choice_table()), "methods", method_table())


def written_reliability(text: str) -> str:
    """The page of reliability with what the runs counted."""
    for name, section in SECTIONS.items():
        text = filled(text, name, section())
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Write the README, or check it."""
    parser = argparse.ArgumentParser(description="Write the README's tables from docs/demo and benchmarks/results.")
    parser.add_argument("--demo", type=Path, metavar="DIR", help="first take over results and picture of this run")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the README would change")
    arguments = parser.parse_args(argv)
    if arguments.demo is not None:
        take_over(arguments.demo)
    stale = False
    for document, write in ((README, written), (METHODS, written_methods), (RELIABILITY, written_reliability)):
        before = document.read_text(encoding="utf-8")
        after = write(before)
        if arguments.check and after != before:
            print(f"{document.name}: its tables are not those of their data; run `make readme`", file=sys.stderr)
            stale = True
        elif after != before:
            document.write_text(after, encoding="utf-8")
    rows = records.read(records.RESULTS)
    if not plot.is_current(rows, records.RESULTS):
        if arguments.check:
            print(f"{plot.PICTURE}: it is not that of its rows; run `make readme`", file=sys.stderr)
            stale = True
        else:
            plot.draw(rows, records.RESULTS)
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
