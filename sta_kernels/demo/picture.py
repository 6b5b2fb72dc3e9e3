"""The share of entries that each task keeps, tensor by tensor: the STA paper's Fig. 4 for this run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
"""Of Okabe and Ito: told apart by colour-blind readers."""


def draw(selection: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write the picture: one panel per merge, one line per task, one point per tensor.

    Args:
        selection: by the merge's title: ``tensors`` (names, block by block) and ``rates`` (task name to one share
            per tensor).
        path: the PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.6 * len(selection)), layout="constrained")
    panels = figure.subplots(len(selection), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for panel, (title, rates) in zip(panels, selection.items(), strict=True):
        names = rates["tensors"]
        for colour, (task, values) in zip(COLOURS, rates["rates"].items(), strict=False):
            panel.plot(values, color=colour, label=task, linewidth=0.7, marker=".", markersize=5)
        panel.set_title(title, loc="left", fontsize=10)
        panel.set_ylabel("selection rate")
        panel.set_ylim(0, 1)
        panel.margins(x=0.01)
        panel.grid(axis="y", linewidth=0.4, alpha=0.6)
        starts = [first for first, name in enumerate(names) if block_of(name) != block_of(names[first - 1])]
        for start in starts:
            panel.axvline(start - 0.5, color="0.8", linewidth=0.6)
        panel.set_xticks(starts, [block_of(names[start]) for start in starts], ha="left", fontsize=9)
    panels[0].legend(loc="upper right", ncols=len(COLOURS), fontsize=9, frameon=False)
    panels[-1].set_xlabel("tensor, by block and name")
    figure.savefig(path, dpi=120)


def block_of(name: str) -> str:
    """``blocks.3.mlp.fc1.weight`` is in ``blocks.3``."""
    match = re.match(r"blocks\.\d+", name)
    return match[0] if match else ""
