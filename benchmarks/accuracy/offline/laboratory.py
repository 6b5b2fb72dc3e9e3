"""One seed's models and data, and what merges of them get right."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sta_kernels as sk
from benchmarks.accuracy.offline import store
from benchmarks.accuracy.offline.plan import Sizes
from benchmarks.accuracy.offline.preparation import Preparation
from benchmarks.accuracy.offline.store import Tensors
from benchmarks.accuracy.offline.tasks import Pool, random_of, split
from benchmarks.accuracy.offline.variants import Setting
from sta_kernels.demo.recipes import FROZEN
from sta_kernels.demo.train import EVALUATION_BATCH, to_input
from sta_kernels.demo.vit import Vit

VALIDATION, TEST = "validation", "test"


class Laboratory:
    """The models of one seed and the images on which merges of them are evaluated.

    Args:
        base: the pretrained model.
        pools: the tasks, in the order in which models are merged.
        seed: of splits and training.
        sizes: of everything.
        cache: folder of the suite.
    """

    def __init__(self, base: Vit, pools: Mapping[str, Pool], seed: int, sizes: Sizes, cache: Path) -> None:
        self.names = tuple(pools)
        self.seed = seed
        self.sizes = sizes
        self.model = base
        self.base: Tensors = base.state_dict()
        self._runner = copy.deepcopy(base)
        # Fine-tuned models serve any selection of tasks; merges belong to theirs.
        self._folder = cache / sizes.digest() / f"seed{seed}"
        self._evaluations = self._folder / ("evaluations-" + "-".join(self.names))
        self.splits = {name: split(name, pool, sizes, random_of(seed, name, "split")) for name, pool in pools.items()}
        self._inputs: dict[tuple[str, str], Tensor] = {}
        self._sums: dict[tuple[str, str], Tensors] = {}
        self._settings: dict[str, Setting] = {}
        self._latest: tuple[str, dict[str, Tensors]] = ("", {})

    def preparation(self, task: str) -> Preparation:
        """Head, fine-tuned model and sums of gradients of one task."""
        return Preparation(self.model, self.splits[task], self.seed, self.sizes, self._folder / task)

    @cached_property
    def tuned(self) -> dict[str, Tensors]:
        """Fine-tuned state dicts by task."""
        return {name: self.preparation(name).model() for name in self.names}

    @cached_property
    def heads(self) -> dict[str, Any]:
        """Frozen heads by task."""
        return {name: self.preparation(name).head() for name in self.names}

    def gradients(self, task: str, kind: str = "gradients") -> Tensors:
        """Σ|g| of a task, see :meth:`Preparation.gradients`."""
        if (task, kind) not in self._sums:
            self._sums[task, kind] = self.preparation(task).gradients(kind)
        return self._sums[task, kind]

    def importance(self, task: str) -> Tensors:
        """LP importance |θ|·Σ|g| (eq. 12), the bits of ``sta_kernels.importance``."""
        tuned = self.tuned[task]
        return {name: tuned[name].abs() * total for name, total in self.gradients(task).items()}

    def once(self, what: str, task: str, compute: Callable[[Preparation], Tensors]) -> Tensors:
        """What is too large to be cached for the few merges that need it: kept until something else is asked for."""
        if self._latest[0] != what:
            self._latest = (what, {})
        found = self._latest[1]
        if task not in found:
            found[task] = compute(self.preparation(task))
        return found[task]

    def setting(self, kind: str) -> Setting:
        """What a variant is given: the same object each time, by which it may remember what is costly."""
        if kind not in self._settings:
            models = [self.tuned[name] for name in self.names]
            self._settings[kind] = Setting(self.base, models, [self.gradients(name, kind) for name in self.names])
        return self._settings[kind]

    def merge(self, method: str, tasks: Sequence[str], **options: Any) -> Tensors:
        """``sta_kernels.merge`` of the models of some tasks: the code under test."""
        return sk.merge(self.base, [self.tuned[task] for task in tasks], method=method, exclude=FROZEN, **options)

    def evaluation(
        self, key: str, part: str, tasks: Sequence[str], make: Callable[[], tuple[Tensors, Tensors]], limit: int | None
    ) -> dict[str, np.ndarray]:
        """What a merge gets right, from the cache or computed.

        Args:
            key: names the merge with its coefficient.
            part: ``validation`` or ``test``.
            tasks: on whose images.
            make: the merged state dict, and arrays to be kept with the result.
            limit: at most so many images per task, the first ones; None: all.

        Returns:
            bool [images] by task; the arrays of ``make`` under their names.
        """

        def compute() -> dict[str, np.ndarray]:
            state, extra = make()
            kept = {name: value.numpy() for name, value in extra.items()}
            return kept | {task: self.correct(state, task, part, limit) for task in tasks}

        return store.arrays(self._evaluations / f"{key}.{part}.npz", compute)

    def correct(self, state: Tensors, task: str, part: str, limit: int | None = None) -> np.ndarray:
        """Whether each image of a task gets its class, bool [images]."""
        runner, head = self._runner, self.heads[task]
        runner.load_state_dict(state)
        embedded = self._embedded(task, part)[:limit]
        with torch.inference_mode():
            features = [runner.features(runner.run_blocks(batch)) for batch in embedded.split(EVALUATION_BATCH)]
            predicted = head.scores(torch.cat(features)).argmax(1)
        pictures = getattr(self.splits[task], part)
        return (predicted == torch.from_numpy(pictures.labels[:limit])).numpy()

    def _embedded(self, task: str, part: str) -> Tensor:
        """First block's input [images, 1 + patches², width]: as all merges have it, whose embeddings are the base's."""
        if (task, part) not in self._inputs:
            images = getattr(self.splits[task], part).images
            with torch.inference_mode():
                parts = [
                    self.model.embed(to_input(images[at : at + EVALUATION_BATCH], self.model.config.image))
                    for at in range(0, len(images), EVALUATION_BATCH)
                ]
            self._inputs[task, part] = torch.cat(parts)
        return self._inputs[task, part]
