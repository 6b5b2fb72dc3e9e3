"""Comparing results, and telling which entries depend on a tie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from mergekit_checkpoints import Family
from mergekit_recipes import SHARED, depth_of, value_at

ULPS = 4
RELATIVE = 1e-5
Array = np.ndarray[Any, Any]


def differing(ours: Array, theirs: Array, operands: Sequence[Array], *, exact: bool) -> Array:
    """Which entries are further apart than the method allows.

    Args:
        ours: float32.
        theirs: float32.
        operands: base and models at the same positions.
        exact: 4 units in the last place of the largest operand at the position; else 1e-5 of it.
    """
    largest = np.max(np.abs(np.stack([*operands, theirs])), axis=0)
    allowed = ULPS * np.spacing(largest) if exact else RELATIVE * largest
    return ~(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)) <= allowed)


def depends_on_tie(recipe: Mapping[str, Any], family: Family, name: str) -> Array:
    """Where equal magnitudes straddle a cut, or a sum of signs is nothing but rounding: either result is right."""
    method = recipe["merge_method"]
    base = family.of(family.base)[name].numpy()
    listed = [i for i, model in enumerate(recipe["models"]) if model["model"] != str(family.base)]
    deltas = [family.of(recipe["models"][i]["model"])[name].numpy() - base for i in listed]
    tied = np.zeros(base.shape, bool)
    if "density" in SHARED[method].others and method in ("ties", "breadcrumbs", "breadcrumbs_ties"):
        for position, i in enumerate(listed):
            mask, cut = trimmed(recipe, i, name, deltas[position], tuple(family.of(family.base)))
            tied |= cut
            deltas[position] = deltas[position] * mask
    if method in ("ties", "breadcrumbs_ties", "dare_ties", "della"):
        names = tuple(family.of(family.base))
        weights = [float(value_at(recipe, "weight", i, name, depth_of(name, names), 1)) for i in listed]
        terms = np.stack([delta.astype(np.float64) * weight for delta, weight in zip(deltas, weights, strict=True)])
        tied |= np.abs(terms.sum(0)) <= 2.0**-20 * np.abs(terms).sum(0)
    return tied


def trimmed(
    recipe: Mapping[str, Any], model: int, name: str, delta: Array, names: tuple[str, ...]
) -> tuple[Array, Array]:
    """Entries that are kept, and entries of which ties decide whether they are."""
    depth = depth_of(name, names)
    density = value_at(recipe, "density", model, name, depth, 1)
    size = np.abs(delta).reshape(-1)
    n = size.size
    if density >= 1:
        return np.ones(delta.shape, bool), np.zeros(delta.shape, bool)
    kept = int(density * n)
    if recipe["merge_method"] == "ties":
        first = n - max(1, kept)
        last = n
    else:
        top = int(value_at(recipe, "gamma", model, name, depth, Fraction(1, 100)) * n)
        first = max(0, n - kept - top)
        last = first + kept
    order = np.argsort(size, kind="stable")
    ranked = size[order]
    mask = np.zeros(n, bool)
    mask[order[first:last]] = True
    tied = np.zeros(n, bool)
    for cut in (first, last):
        if 0 < cut < n and ranked[cut - 1] == ranked[cut]:
            tied |= size == ranked[cut]
    return mask.reshape(delta.shape), tied.reshape(delta.shape)
