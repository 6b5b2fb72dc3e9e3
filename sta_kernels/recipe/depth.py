"""Relative depth of each tensor's layer: the position at which a gradient is read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction

_LAYER = re.compile(r"\.(\d+)\.")


def split_layer(name: str) -> tuple[str, int, str] | None:
    """Stack, layer and the rest of a tensor's name: ``model.layers``, 3 and ``mlp.up.weight``; None outside layers."""
    match = _LAYER.search(name)
    return None if match is None else (name[: match.start()], int(match[1]), name[match.end() :])


def layer_counts(names: Iterable[str]) -> dict[str, int]:
    """Number of layers per stack: one more than the largest layer number, whether or not all below it are there."""
    counts: dict[str, int] = {}
    for stack, layer, _ in filter(None, map(split_layer, names)):
        counts[stack] = max(counts.get(stack, 0), layer + 1)
    return counts


def relative_depths(names: Iterable[str]) -> dict[str, Fraction]:
    """Place every tensor between its stack's first layer (0) and last (1), as mergekit 0.1.5 does.

    The first number between dots is the layer, and what stands before it names the stack, so that a model with two
    towers has two stacks. Tensors outside any layer (embeddings, final norm, head) stand at 0; a stack of a single
    layer stands at 1.

    Args:
        names: all tensor names of the model.

    Returns:
        Exact depth in [0, 1] per name.
    """
    listed = list(names)
    counts = layer_counts(listed)
    depths = {}
    for name in listed:
        place = split_layer(name)
        depths[name] = Fraction(0) if place is None else depth_of(place[1], counts[place[0]])
    return depths


def depth_of(index: int, count: int) -> Fraction:
    """Relative depth of layer ``index`` of ``count``; 1 where it is the only one."""
    return Fraction(index, count - 1) if count > 1 else Fraction(1)
