"""Means over tasks, seeds and images, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Values = Mapping[str, Sequence[Array]]
"""By task and seed, a number per image: whether it is right, or a difference of two such numbers."""


@dataclass(frozen=True)
class Estimate:
    """A mean over tasks (each counts alike), seeds and images, with two standard errors.

    Attributes:
        mean: of the tasks' means over the seeds' means over images.
        images: standard error over images, with the seeds as they are.
        seeds: standard error over seeds, sd/√S of their means, which has the images in it as well; None for one seed.
    """

    mean: float
    images: float
    seeds: float | None


def estimate(values: Values, images: Values) -> Estimate:
    """The mean of something known per image.

    An image that was drawn for the test of several seeds counts once: the standard error takes its numbers together.
    With r the deviation of a number from its seed's mean, divided by the seed's number of images and by the number of
    seeds, and c the sum of r over the seeds that drew the image, a task's variance is n/(n − 1) · Σ c² over n images.

    Args:
        values: by task and seed, [images].
        images: which image each is, by task and seed; only equality matters.

    Raises:
        ValueError: no task, or a task without images in a seed.
    """
    if not values or any(not len(each) for seeds in values.values() for each in seeds):
        raise ValueError("a mean needs a task, and images of each")
    variances = []
    for task, seeds in values.items():
        deviations = [(each - np.mean(each)) / (len(each) * len(seeds)) for each in seeds]
        ids = [which[: len(each)] for which, each in zip(images[task], seeds, strict=True)]
        _, owner = np.unique(np.concatenate(ids), return_inverse=True)
        sums = np.bincount(owner, np.concatenate(deviations))
        variances.append(float(np.square(sums).sum()) * len(sums) / max(len(sums) - 1, 1))
    by_seed = np.array([[np.mean(each) for each in seeds] for seeds in values.values()]).mean(axis=0)
    over_seeds = float(np.std(by_seed, ddof=1) / math.sqrt(len(by_seed))) if len(by_seed) > 1 else None
    return Estimate(float(by_seed.mean()), math.sqrt(sum(variances)) / len(values), over_seeds)


def difference(these: Values, those: Values) -> dict[str, list[Array]]:
    """Image by image, on the tasks that both have and on as many images as both were tried on."""
    found = {}
    for task in these:
        if task in those:
            found[task] = [
                a[: len(b)].astype(np.float64) - b[: len(a)] for a, b in zip(these[task], those[task], strict=True)
            ]
    return found
