"""Masks from scores: which tasks count at each position of one tensor, in plain torch.

Scores, importances and task vectors of a tensor are stacked: [N, ...], one slice per task. For one that the library's
own merge can make, it makes the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sta_kernels.methods.quantile import rank_of_quantile

P = 0.7
"""Quantile of the tasks' importances at a position: the paper's."""


def kept_at(p: float, n_tasks: int) -> int:
    """How many of N distinct scores lie above their p-quantile."""
    return n_tasks - rank_of_quantile(p, n_tasks)


def top(scores: Tensor, keep: int) -> Tensor:
    """The tasks with the highest scores at each position; equal ones are kept or dropped together.

    ``M_i = [#{j: s_j < s_i} ≥ N − keep]``: STA's mask (eq. 15–17) of already normalised importances.

    Args:
        scores: [N, ...].
        keep: how many at each position where no two scores are equal, 0 to N.

    Returns:
        bool [N, ...].
    """
    n_tasks = len(scores)
    return torch.stack([(scores < score).sum(0) for score in scores]) >= n_tasks - keep


def minmax(importances: Tensor) -> Tensor:
    """Each task's importances of a tensor by their range (eq. 13): 0 to 1, and 0 where all are equal."""
    rows = importances.flatten(1)
    least, greatest = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    spread = greatest - least
    return torch.where(spread > 0, (rows - least) / spread, 0).view_as(importances)


def ranks(importances: Tensor) -> Tensor:
    """The share of a task's entries of a tensor that are smaller, for each entry: equal entries are given one rank."""
    rows = importances.flatten(1)
    ascending, order = rows.sort(1)
    # Searched for in their own order, which is ten times as fast as in any other.
    smaller = torch.searchsorted(ascending, ascending)
    return (torch.empty_like(smaller).scatter_(1, order, smaller) / rows.shape[1]).view_as(importances)


def greatest(scores: Tensor, counts: Sequence[int]) -> Tensor:
    """So many entries of each task, those with its highest scores in the tensor; the first of equal ones.

    Args:
        scores: [N, ...].
        counts: one per task, each at most the number of entries.

    Returns:
        bool [N, ...], with exactly ``counts[i]`` entries of task i.
    """
    rows = scores.flatten(1)
    masks = torch.zeros_like(rows, dtype=torch.bool)
    for mask, row, count in zip(masks, rows, counts, strict=True):
        mask[row.sort(descending=True, stable=True).indices[:count]] = True
    return masks.view_as(scores)


def noise(shape: Sequence[int], name: str, seed: int) -> Tensor:
    """Uniform float64 numbers in [0, 1) that go by the seed and the tensor's name."""
    generator = np.random.default_rng((seed, *name.encode()))
    return torch.from_numpy(generator.random(tuple(shape)))
