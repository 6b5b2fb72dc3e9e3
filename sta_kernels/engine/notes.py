"""What the reader of a plan should know of its inputs."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from sta_kernels.engine.regions import Region


def repeated(region: Region) -> Iterator[str]:
    """Models or importances that stand there twice: seldom meant, and STA adds nothing where importances tie."""
    for what, indices in (("model", region.models), ("importance", region.importances)):
        for index in dict.fromkeys(indices):
            places = [str(i + 1) for i, other in enumerate(indices) if other == index]
            if index is not None and len(places) > 1:
                yield f"models {', '.join(places)}: the same {what}, {region.label(index)}"


def tied_heads(region: Region, merged: Collection[str]) -> Iterator[str]:
    """Heads that are no tensors of their own, where another model has them as such."""
    for index in dict.fromkeys(index for index in (region.base, *region.models) if index is not None):
        for head, first in region.tied_heads(index).items():
            if index == region.template and first in merged:
                yield f"{region.label(index)}: ties {head!r} to {first!r}, so the result does too"
            elif head in merged:
                yield f"{region.label(index)}: no {head!r}; it is tied to {first!r}, which is taken"
