"""Relative depth of each tensor's layer: the position at which a gradient is read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction

_LAYER = re.compile(r"\.(\d+)\.")


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
    layers = {name: _LAYER.search(name) for name in names}
    last: dict[str, int] = {}
    for name, match in layers.items():
        if match:
            stack = name[: match.start()]
            last[stack] = max(last.get(stack, 0), int(match[1]))
    depths = {}
    for name, match in layers.items():
        if match is None:
            depths[name] = Fraction(0)
        else:
            top = last[name[: match.start()]]
            depths[name] = Fraction(int(match[1]), top) if top else Fraction(1)
    return depths
