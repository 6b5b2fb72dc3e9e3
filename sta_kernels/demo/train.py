"""Heads from few shots, fine-tuning of the blocks, accuracy: everything seeded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate, one_hot

from sta_kernels.demo.data import Pictures, Task
from sta_kernels.demo.vit import Vit, freeze_all_but_blocks

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's, per channel: the source model's preprocessing."""
SHOTS = 20
PENALTY = 1.0
LOGIT_SCALE = 20.0
LEARNING_RATE = 3e-5
BATCH = 32
EVALUATION_BATCH = 125


def to_input(images: np.ndarray, side: int) -> Tensor:
    """Grey or colour uint8 images to float32 [n, 3, side, side]: bilinear, ImageNet's normalisation."""
    x = torch.from_numpy(np.ascontiguousarray(images)).float() / 255
    x = x.unsqueeze(1).expand(-1, 3, -1, -1) if x.ndim == 3 else x.permute(0, 3, 1, 2)
    x = interpolate(x, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@dataclass(frozen=True)
class Head:
    """A frozen linear classifier on unit-length features: ``weight`` [features, classes], ``bias`` [classes]."""

    weight: Tensor
    bias: Tensor

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of the scaled scores."""
        return cross_entropy(LOGIT_SCALE * self.scores(features), labels)

    def scores(self, features: Tensor) -> Tensor:
        """[n, features] to [n, classes]."""
        return features @ self.weight + self.bias


def features_of(model: Vit, images: np.ndarray) -> Tensor:
    """Features [n, 2·width] of the images, without gradients, in evaluation mode."""
    model.eval()
    starts = range(0, len(images), EVALUATION_BATCH)
    with torch.inference_mode():
        parts = [model(to_input(images[start : start + EVALUATION_BATCH], model.config.image)) for start in starts]
    return torch.cat(parts)


def few_shots(pictures: Pictures, shots: int, rng: np.random.Generator) -> Pictures:
    """A random sample with the same number of every class (fewer where a class has fewer)."""
    chosen = [rng.permutation(np.flatnonzero(pictures.labels == label))[:shots] for label in np.unique(pictures.labels)]
    return pictures.take(np.concatenate(chosen))


def ridge_head(model: Vit, task: Task, rng: np.random.Generator) -> Head:
    """Ridge regression on ±1 targets from a few shots per class: it stands where CLIP has its text head.

    ``W = (FᵀF + I)⁻¹ FᵀY`` on centred features F and targets Y, in float64; centring takes the place of a bias column.
    """
    shots = few_shots(task.train, SHOTS, rng)
    features = features_of(model, shots.images).double()
    targets = 2 * one_hot(torch.from_numpy(shots.labels), task.classes).double() - 1
    centre, level = features.mean(0), targets.mean(0)
    centred = features - centre
    gram = centred.T @ centred + PENALTY * torch.eye(centred.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, centred.T @ (targets - level))
    return Head(weight.float(), (level - centre @ weight).float())


def accuracy(model: Vit, head: Head, pictures: Pictures) -> float:
    """Share of pictures whose class has the highest score."""
    predicted = head.scores(features_of(model, pictures.images)).argmax(1).numpy()
    return float((predicted == pictures.labels).mean())


def finetune(
    model: Vit,
    head: Head,
    pictures: Pictures,
    *,
    steps: int,
    rng: np.random.Generator,
    progress: Callable[[int, float], None],
) -> None:
    """Train ``blocks.*`` in place: AdamW, cosine schedule to zero, the head frozen.

    Args:
        model: starts from the pretrained weights.
        head: of this task.
        pictures: training images, drawn in shuffled passes.
        steps: number of batches of 32.
        rng: source of the order.
        progress: receives the number of steps done and the last loss.
    """
    freeze_all_but_blocks(model)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))
    passes = math.ceil(steps * BATCH / len(pictures))
    order = np.concatenate([rng.permutation(len(pictures)) for _ in range(passes)])
    for step in range(steps):
        batch = pictures.take(order[step * BATCH : (step + 1) * BATCH])
        loss = head.loss(model(to_input(batch.images, model.config.image)), torch.from_numpy(batch.labels))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        progress(step + 1, loss.item())
    optimizer.zero_grad(set_to_none=True)
    model.eval()
