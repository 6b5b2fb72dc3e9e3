"""Write the tables and pictures of docs/results.md from committed rows, and from nothing else.

python -m scripts.results_page             # write them
python -m scripts.results_page --check     # write nothing; fail where something would change
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import records
from benchmarks.accuracy.offline import figures, prose, tables
from benchmarks.accuracy.offline.recorded import Recorded
from benchmarks.tables import provenance
from scripts.readme_tables import ROOT, filled

PAGE = ROOT / "docs" / "results.md"
MAIN = ("sta_lp", "sta_amp", "sta_lp_amp")
PARTS: dict[str, tuple[str, Callable[[Recorded], str]]] = {
    "offline-summary": ("merging", prose.paragraph),
    "offline-origin": ("merging", lambda recorded: origin(recorded)),
    "offline-merging": ("merging", tables.merging),
    "offline-controls": ("controls", lambda recorded: tables.compared(recorded, "controls", "sta_lp")),
    "offline-beyond": ("beyond", lambda recorded: tables.compared(recorded, "beyond", *MAIN)),
    "offline-samples": ("samples", lambda recorded: tables.compared(recorded, "samples", "sta_lp")),
    "offline-p": ("p", lambda recorded: tables.compared(recorded, "p", "sta_lp", "sta_amp")),
    "offline-forgetting": (
        "forgetting",
        lambda recorded: f"{tables.forgetting(recorded)}\n\n{tables.forgetting_by_task(recorded)}",
    ),
    "offline-pairs": ("pairs", tables.pairs),
    "offline-selection": ("merging", lambda recorded: tables.selection(recorded, "sta_lp")),
    "offline-single": ("single", tables.single),
}
"""Name of the markers → the section that it needs, and what stands between them."""
CAPTIONS = {
    "offline-merging": ("merging.png", "Difference of each method from STA LP, with standard errors"),
    "offline-p": ("settings.png", "Average accuracy by tasks kept, and by samples of importance"),
    "offline-forgetting": ("forgetting.png", "Change of target and control by task"),
    "offline-pairs": ("pairs.png", "Average accuracy of each pair by method"),
    "offline-selection": ("selection.png", "Share of entries that each task keeps, by kind of tensor and measure"),
}
"""Name of the markers → the picture that follows, and what it shows."""


def origin(recorded: Recorded) -> str:
    """What was run: seeds, images, and where the rows come from."""
    case = recorded.case
    counts = {task: recorded["pretrained"]["images"][task] for task in recorded.tasks}
    return (
        f"{recorded.seeds} seeds; test images per seed: {', '.join(f'{task} {n}' for task, n in counts.items())} "
        f"(the first {case['brief']} for forgetting, pairs and models of one task); {case['validation']} validation "
        f"images a task.\n\n{provenance(list(recorded.rows.values()))}"
    )


def written(text: str, recorded: Recorded) -> str:
    """The page with all its parts as the rows say."""
    drawn = figures.panels(recorded)
    for name, (section, part) in PARTS.items():
        known = bool(recorded) and bool(recorded.section(section))
        body = part(recorded) if known else "Nothing has been measured."
        picture, caption = CAPTIONS.get(name, ("", ""))
        if known and picture in drawn:
            body += f"\n\n![{caption}](results/{picture})"
        text = filled(text, name, body)
    return text


def main(argv: Sequence[str] | None = None, *, page: Path = PAGE, results: Path = records.RESULTS) -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description="Write docs/results.md from benchmarks/results.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page would change")
    arguments = parser.parse_args(argv)
    recorded = Recorded(records.read(results))
    before = page.read_text(encoding="utf-8")
    after = written(before, recorded)
    pictures = page.with_suffix("")
    stale = [page.name] * (after != before) + figures.stale(recorded, pictures)
    if arguments.check:
        for name in stale:
            print(f"{name}: it is not that of its rows; run `make readme`", file=sys.stderr)
        return int(bool(stale))
    page.write_text(after, encoding="utf-8")
    figures.draw(recorded, pictures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
