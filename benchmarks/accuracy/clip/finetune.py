"""Fine-tuning of an image encoder under its task's frozen zero-shot head."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, Dataset

from benchmarks.accuracy.clip.settings import BATCH, LARGEST_GRADIENT, LEARNING_RATE, WARM_UP, WEIGHT_DECAY


class Prepared(Dataset[tuple[Tensor, int]]):
    """A data set whose pictures are preprocessed when they are asked for."""

    def __init__(self, data: Any, preprocess: Callable[[Any], Tensor]) -> None:
        self.data = data
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """A picture as a tensor, and its label."""
        image, label = self.data[index]
        return self.preprocess(image), int(label)


def share_of_rate(step: int, steps: int) -> float:
    """Of the learning rate at a step: a linear rise over the warm-up, then half a cosine to 0."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / max(1, steps - WARM_UP)))


def finetune(
    classifier: nn.Module,
    data: Any,
    augment: Callable[[Any], Tensor],
    *,
    epochs: int,
    seed: int,
    workers: int,
    progress: Callable[[int, int, float], None],
) -> None:
    """Train a classifier's parameters in place: AdamW on the cross-entropy, the head frozen.

    Args:
        classifier: an encoder with its task's head; on the device that is to be used.
        data: a data set of (PIL image, label).
        augment: PIL image to [3, height, width].
        epochs: passes over the data.
        seed: of order and augmentation.
        workers: processes that load pictures.
        progress: receives the steps done, all steps, and the last loss.
    """
    device = next(classifier.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        Prepared(data, augment), batch_size=BATCH, shuffle=True, num_workers=workers, generator=generator
    )
    parameters = list(classifier.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * len(loader)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share_of_rate(step, steps))
    classifier.train()
    done = 0
    for _ in range(epochs):
        for images, labels in loader:
            loss = cross_entropy(classifier(images.to(device)), labels.to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            clip_grad_norm_(parameters, LARGEST_GRADIENT)
            optimizer.step()
            schedule.step()
            done += 1
            progress(done, steps, loss.item())
    optimizer.zero_grad(set_to_none=True)
    classifier.eval()


def count_correct(
    classifier: nn.Module, data: Any, preprocess: Callable[[Any], Tensor], batch: int, workers: int
) -> int:
    """Pictures whose class has the greatest logit."""
    device = next(classifier.parameters()).device
    loader = DataLoader(Prepared(data, preprocess), batch_size=batch, num_workers=workers)
    classifier.eval()
    right = 0
    with torch.inference_mode():
        for images, labels in loader:
            right += int((classifier(images.to(device)).argmax(1).cpu() == labels).sum())
    return right
