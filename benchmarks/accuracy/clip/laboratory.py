"""Models, heads and pictures of a run: what it fine-tunes, measures and evaluates with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Subset

from benchmarks.accuracy.clip.finetune import count_correct, finetune
from benchmarks.accuracy.clip.settings import BATCH, EPOCHS, FROZEN, Layout, Settings
from sta_kernels.errors import InputError
from sta_kernels.vision import (
    Classifier,
    Clip,
    Split,
    choose,
    load_encoder,
    load_pretrained,
    open_split,
    read_weights,
    save_encoder,
    task_importance,
    zero_shot_head,
)
from sta_kernels.vision.models import check_spec, device_of

Say = Callable[[str], None]


class Laboratory:
    """Everything that is loaded once. Data is looked for before any model is.

    Args:
        settings: of the run.
        say: receives progress.

    Raises:
        InputError: data that is missing or too small, a model that is unknown, weights that do not fit, or a task that
            cannot be trained for want of a number of epochs.
    """

    def __init__(self, settings: Settings, say: Say) -> None:
        self.settings = settings
        self.layout = Layout(settings.out)
        self._say = say
        check_spec(settings.model)
        device = device_of(settings.device)
        self.train = {name: self._open(task, True) for name, task in zip(settings.names, settings.tasks, strict=True)}
        self.test = {name: self._limited(self._open(task, False)) for name, task in self._tested().items()}
        self.positions = {name: choose(split, settings.samples, settings.seed) for name, split in self.train.items()}
        for name in settings.names:
            if name not in settings.checkpoints and self.epochs(name) is None:
                raise InputError(f"{name}: how long it is trained is not known: --epochs {name}=N")
        # Of the training side, as `sta-kernels importance` makes its head; the control has none.
        named = {n: self.train.get(n, split).prompts for n, split in self.test.items()}
        prompts = {n: each.replaced(settings.prompts.get(n)) for n, each in named.items()}
        self.clip: Clip = load_pretrained(settings.model, settings.pretrained, allow_download=settings.allow_download)
        self.clip.model.to(device)
        self.heads = {name: zero_shot_head(self.clip, prompt) for name, prompt in prompts.items()}
        self._pretrained = copy.deepcopy(self.clip.model.state_dict())

    def epochs(self, task: str) -> int | None:
        """Passes over a task's pictures."""
        return self.settings.epochs.get(task, EPOCHS.get(task))

    def _tested(self) -> dict[str, str]:
        """Name to task of everything that is evaluated."""
        control = self.settings.control if "table3" in self.settings.parts else None
        return {task.partition("=")[0]: task for task in (*self.settings.tasks, *([control] if control else []))}

    def _open(self, task: str, train: bool) -> Split:
        return open_split(task, self.settings.data, train=train, download=self.settings.allow_download)

    def _limited(self, split: Split) -> Split:
        """A seeded draw of the test pictures, where a trial is asked for."""
        limit = self.settings.limit
        if limit is None or limit >= len(split):
            return split
        drawn = np.random.default_rng(self.settings.seed).permutation(len(split))[:limit].tolist()
        return Split(split.task, Subset(split.data, drawn), split.prompts)

    def classifier(self, task: str) -> Classifier:
        """The encoder as it is now, under a task's head."""
        return Classifier(self.clip.visual, self.heads[task])

    def _reset(self) -> None:
        self.clip.model.load_state_dict(self._pretrained)

    def _save(self, folder: Path) -> None:
        names = [name for name in self._pretrained if any(fnmatch(name, pattern) for pattern in FROZEN)]
        save_encoder(self.clip.model, folder, also=names if self.settings.count_frozen else ())

    def prepare(self) -> None:
        """Write the pretrained and the fine-tuned encoders and their importances; what is there already stays."""
        if not (self.layout.base / "model.safetensors").exists():
            self._save(self.layout.base)
        for number, name in enumerate(self.settings.names):
            folder = self.layout.model(name)
            self._reset()
            if (folder / "model.safetensors").exists():
                load_encoder(self.clip.model, read_weights(folder), folder)
            elif name in self.settings.checkpoints:
                path = self.settings.checkpoints[name]
                load_encoder(self.clip.model, read_weights(path), path)
                self._save(folder)
            else:
                self._train(name, number)
                self._save(folder)
            if not self.layout.importance(name).exists():
                self._say(f"{name}: importance from {self.settings.samples} training pictures")
                result = task_importance(
                    self.classifier(name), self.train[name], self.positions[name], self.clip.preprocess
                )
                result.save(self.layout.importance(name))
        self._reset()

    def _train(self, name: str, number: int) -> None:
        split, epochs = self.train[name], self.epochs(name) or 0
        self._say(f"{name}: fine-tuning, {epochs} epochs of {len(split)} pictures, batches of {BATCH}")

        def progress(done: int, steps: int, loss: float) -> None:
            if done % 100 == 0 or done == steps:
                self._say(f"{name}: step {done}/{steps}, loss {loss:.3f}")

        seed = self.settings.seed_of(number)
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # what augmentation draws in this process
            finetune(
                self.classifier(name), split.data, self.clip.augment,
                epochs=epochs, seed=seed, workers=self.settings.workers, progress=progress,
            )  # fmt: skip

    def accuracy(self, folder: Path, tasks: list[str]) -> dict[str, float]:
        """Share of each task's test pictures that the encoder of a folder classifies rightly."""
        load_encoder(self.clip.model, read_weights(folder), folder)
        result = {}
        for name in tasks:
            right = count_correct(
                self.classifier(name), self.test[name].data, self.clip.preprocess,
                self.settings.batch, self.settings.workers,
            )  # fmt: skip
            result[name] = right / len(self.test[name])
        return result
