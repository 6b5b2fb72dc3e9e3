"""Importance of an image encoder on pictures of its task: seeded samples, deterministic preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sta_kernels.errors import InputError
from sta_kernels.taylor import importance
from sta_kernels.taylor.result import Importance
from sta_kernels.vision.tasks import Split


def choose(split: Split, samples: int, seed: int) -> list[int]:
    """Positions of so many different pictures, drawn by a seed.

    Raises:
        InputError: fewer pictures than asked for, or less than one asked for.
    """
    if samples < 1:
        raise InputError(f"samples: at least 1, not {samples}")
    if samples > len(split):
        raise InputError(f"samples: {samples} asked for, and {split.task} has {len(split)} pictures to draw from")
    return np.random.default_rng(seed).choice(len(split), samples, replace=False).tolist()


def task_importance(
    classifier: nn.Module,
    split: Split,
    positions: Sequence[int],
    preprocess: Callable[[Any], Tensor],
    *,
    measure: str = "lp",
    progress: Callable[[int], None] = lambda done: None,
) -> Importance:
    """Importance (eq. 10–12) of a classifier's trainable parameters: cross-entropy, one backward pass per picture.

    Args:
        classifier: a fine-tuned encoder with its task's frozen head (:class:`sta_kernels.vision.Classifier`).
        split: of the task, for training.
        positions: of its pictures; the paper takes 32.
        preprocess: PIL image to [3, height, width], without chance.
        measure: "lp" or "lp_amp"; :func:`amp_importance` needs no pictures.
        progress: receives the number of pictures done.
    """
    device = next(classifier.parameters()).device

    def pictures() -> Iterator[tuple[Tensor, Tensor]]:
        for done, position in enumerate(positions):
            progress(done)
            image, label = split.data[position]
            yield preprocess(image)[None].to(device), torch.tensor([int(label)], device=device)
        progress(len(positions))

    return importance(classifier, pictures(), cross_entropy, measure=measure)


class Encoder(nn.Module):
    """An image encoder under the name that it has in its model, ``visual``."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual


def amp_importance(visual: nn.Module) -> Importance:
    """Importance by the weights alone, θ² (eq. 21): no pictures, no head."""
    return importance(Encoder(visual), measure="amp")
