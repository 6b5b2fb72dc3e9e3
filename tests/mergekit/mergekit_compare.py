"""Comparing results, and telling which entries depend on a tie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
from mergekit_checkpoints import Family
from mergekit_recipes import depth_of, value_at

ULPS = 4
RELATIVE = 1e-5
Array = np.ndarray[Any, Any]


def differing(
    ours: Array, theirs: Array, operands: Sequence[Array], *, exact: bool, slack: Array | float = 0.0
) -> Array:
    """Which entries are further apart than the method allows.

    Args:
        ours: float32.
        theirs: float32.
        operands: base and models at the same positions.
        exact: 4 units in the last place of the largest operand at the position; else 1e-5 of it.
        slack: what ties allow beyond that.
    """
    largest = np.max(np.abs(np.stack([*operands, theirs])), axis=0)
    allowed = ULPS * np.spacing(largest) if exact else RELATIVE * largest
    return ~(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)) <= allowed + slack)


def slack_of_ties(recipe: Mapping[str, Any], family: Family, name: str) -> Array:
    """How far apart results may be that are both right, because of equal magnitudes at a cut or a sum that is nothing.

    Infinity where a tie decides about the entry itself; and, for Model Stock, where the two differ on purpose.
    """
    method = recipe["merge_method"]
    names = tuple(family.of(family.base))
    base = family.of(family.base)[name].numpy()
    listed = [i for i, model in enumerate(recipe["models"]) if model["model"] != str(family.base)]
    deltas = [family.of(recipe["models"][i]["model"])[name].numpy() - base for i in listed]
    tied = np.zeros(base.shape, bool)
    if method in ("ties", "breadcrumbs", "breadcrumbs_ties"):
        for position, i in enumerate(listed):
            mask, cut = trimmed(recipe, i, name, deltas[position], names)
            tied |= cut
            deltas[position] = deltas[position] * mask
    if method in ("ties", "breadcrumbs_ties", "dare_ties", "della"):
        weights = [float(value_at(recipe, "weight", i, name, depth_of(name, names), 1)) for i in listed]
        terms = np.stack([delta.astype(np.float64) * weight for delta, weight in zip(deltas, weights, strict=True)])
        tied |= np.abs(terms.sum(0)) <= 2.0**-20 * np.abs(terms).sum(0)
    slack = np.where(tied, np.inf, 0.0)
    if method == "sce":
        slack += _slack_of_selection(
            np.stack(deltas), value_at(recipe, "select_topk", None, name, depth_of(name, names), 1)
        )
    if method == "arcee_fusion":
        slack += _slack_of_threshold(deltas[0], base)
    if method == "model_stock":
        by_row = bool(value_at(recipe, "filter_wise", None, name, depth_of(name, names), False))
        slack += _slack_of_opposition(np.stack(deltas), by_row=by_row)
    return slack


def _slack_of_threshold(delta: Array, base: Array) -> Array:
    """Arcee Fusion: importances that float32's rounding of a divergence puts on either side of the threshold."""

    def softmax(row: Array) -> Array:
        raised = np.exp(row - row.max(axis=-1, keepdims=True))
        return raised / raised.sum(axis=-1, keepdims=True) + 1e-8

    target, origin = (softmax(values.astype(np.float64)) for values in (base + delta, base))
    terms = target * np.log(target / origin)
    divergence = terms.sum(axis=-1, keepdims=True)
    rounding = 8 * np.finfo(np.float32).eps * np.abs(terms).sum(axis=-1, keepdims=True)
    importance = np.abs(delta) * divergence
    low, median, high = np.sort(importance, axis=None)[[quarter * (delta.size - 1) // 4 for quarter in (1, 2, 3)]]
    threshold = median + 1.5 * (high - low)
    margin = 2 * threshold * (rounding / np.maximum(divergence, 1e-30)).max()
    return np.where(np.abs(importance - threshold) <= margin, np.inf, 0.0)


def _slack_of_opposition(deltas: Array, *, by_row: bool) -> Array:
    """Model Stock: task vectors, or their rows, that point away from each other, or are next to nothing."""
    vectors = deltas.astype(np.float64)
    if not (by_row and vectors.ndim > 1):
        vectors = vectors.reshape(len(vectors), -1)
    lengths = np.sqrt((vectors**2).sum(axis=-1))
    cosines, products = [], []
    for i, j in combinations(range(len(vectors)), 2):
        products.append(lengths[i] * lengths[j])
        cosines.append((vectors[i] * vectors[j]).sum(axis=-1) / np.maximum(products[-1], 1e-30))
    apart = (np.mean(cosines, axis=0) < 1e-3) | (np.min(products, axis=0) < 1e-6)
    return np.where(apart[..., None] if by_row and deltas.ndim > 1 else apart, np.inf, np.zeros(deltas.shape[1:]))


def _slack_of_selection(deltas: Array, share: Fraction) -> Array:
    """SCE: equal variances at the cut; which of them are kept changes the models' weights everywhere."""
    variance = deltas.astype(np.float64).var(axis=0)
    ranked = np.sort(variance, axis=None)[::-1]
    kept = int(np.float32(np.count_nonzero(ranked)) * np.float32(float(share)))
    if share >= 1 or kept in (0, ranked.size):
        return np.zeros(variance.shape)
    near = np.abs(variance - ranked[kept]) <= RELATIVE * ranked[kept]
    if ranked[kept - 1] > ranked[kept] * (1 + RELATIVE):
        return np.zeros(variance.shape)
    squares = deltas.astype(np.float64) ** 2
    moved = max((square[near].sum() / square[variance > ranked[kept]].sum()) for square in squares)
    return np.where(near, np.inf, 2 * moved * np.abs(deltas).max(axis=0))


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
