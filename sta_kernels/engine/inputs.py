"""The checkpoints that a recipe names: opened once each, however often it names them."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from sta_kernels.checkpoint import Checkpoint, ImportanceMetadata, TensorEntry, open_checkpoint
from sta_kernels.engine.jobs import Input
from sta_kernels.engine.tied_heads import heads, tied_heads
from sta_kernels.errors import InputError
from sta_kernels.methods.selection import matches
from sta_kernels.methods.statistics import Summary
from sta_kernels.recipe import Recipe


class Inputs:
    """Open checkpoints by index; a context manager that closes them.

    Attributes:
        checkpoints: in the order in which the recipe first names them.
        base: index of the base, or None.
        target: index of the target, or None.
        models: index per model.
        importances: index per model, or None where it has none.
        template: index of the checkpoint that the result takes names, dtypes and copied entries from.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.checkpoints: list[Checkpoint] = []
        self._records: list[Input] = []
        self._known: dict[tuple[str, bool], int] = {}
        self._entries: dict[int, dict[str, TensorEntry]] = {}
        self._statistics: dict[int, ImportanceMetadata | None] = {}
        try:
            self.base = None if recipe.base is None else self._open(recipe.base)
            self.target = None if recipe.target is None else self._open(recipe.target)
            self.models = [self._open(spec.model) for spec in recipe.models]
            self.importances = [
                None if spec.importance is None else self._open(spec.importance, importance=True)
                for spec in recipe.models
            ]
            self._check_kinds()
            self._tied = self._find_tied_heads(recipe.exclude)
        except BaseException:
            self.close()
            raise
        named = (self.target, self.base, self.models[0])
        self.template = next(index for index in named if index is not None)

    def _open(self, path: str, *, importance: bool = False) -> int:
        key = (os.path.realpath(path), importance)
        if key not in self._known:
            checkpoint = open_checkpoint(path, stem="importance" if importance else "model")
            self._known[key] = len(self.checkpoints)
            self.checkpoints.append(checkpoint)
            files = tuple((str(file), size, mtime) for file, size, mtime in checkpoint.fingerprint())
            self._records.append(Input(str(path), importance, files))
        return self._known[key]

    def _check_kinds(self) -> None:
        """Refuse an importance in a model's place, and a model in an importance's."""
        models = dict.fromkeys(index for index in (self.base, self.target, *self.models) if index is not None)
        weights: dict[str, int] = {}
        for index in models:
            if self.metadata(index) is not None:
                raise InputError(f"{self.label(index)}: an importance file, given as a model")
            weights.update((os.path.realpath(file), index) for file in self.checkpoints[index].files)
        for importance in self.importances:
            for file in () if importance is None else self.checkpoints[importance].files:
                if os.path.realpath(file) in weights:
                    model = self.label(weights[os.path.realpath(file)])
                    raise InputError(f"{file}: given as an importance, but these are the weights of {model}")

    def _find_tied_heads(self, exclude: tuple[str, ...]) -> dict[int, dict[str, str]]:
        """Heads that a model, or its importance, leaves out as tied; what is excluded may be missing anyhow."""
        read = dict.fromkeys(index for index in (self.target, self.base, *self.models) if index is not None)
        known = heads(self.checkpoints[index] for index in read)
        known = {name: entry for name, entry in known.items() if not matches(name, exclude)}
        tied = {index: tied_heads(self.checkpoints[index], known) for index in read}
        for model, importance in zip(self.models, self.importances, strict=True):
            if importance is not None:
                entries = self.checkpoints[importance].entries
                tied[importance] = {
                    head: first for head, first in tied[model].items() if head not in entries and first in entries
                }
        return tied

    @property
    def records(self) -> tuple[Input, ...]:
        """What the plan says of them."""
        return tuple(self._records)

    def label(self, index: int) -> str:
        """What errors call a checkpoint: its path."""
        return str(self.checkpoints[index].path)

    def entries(self, index: int) -> dict[str, TensorEntry]:
        """Entries by name, tied names among them."""
        if index not in self._entries:
            checkpoint = self.checkpoints[index]
            tied = {alias: checkpoint.entries[first] for alias, first in self.aliases(index).items()}
            self._entries[index] = {**checkpoint.entries, **tied}
        return self._entries[index]

    def aliases(self, index: int) -> dict[str, str]:
        """Tied name to the name that it stands for: as the file ties them, and heads that it leaves out as tied."""
        return {**self.checkpoints[index].aliases, **self._tied.get(index, {})}

    def tied_heads(self, index: int) -> dict[str, str]:
        """Heads that other models store and this one leaves out, with the embedding that each is tied to."""
        return self._tied.get(index, {})

    def metadata(self, index: int) -> ImportanceMetadata | None:
        """What an importance file says of itself."""
        if index not in self._statistics:
            checkpoint = self.checkpoints[index]
            self._statistics[index] = ImportanceMetadata.from_metadata(checkpoint.metadata, self.label(index))
        return self._statistics[index]

    def summary(self, index: int, name: str) -> Summary | None:
        """Range and mean of an importance tensor, where its file carries them."""
        metadata = self.metadata(index)
        return None if metadata is None else metadata.statistics.get(name)

    def files(self) -> list[Path]:
        """All files of all inputs, each once."""
        return list(dict.fromkeys(Path(file) for record in self._records for file, _, _ in record.files))

    def check_unchanged(self) -> None:
        """Raise RunError, naming the file, where one is no longer what was opened."""
        for checkpoint in self.checkpoints:
            checkpoint.check_unchanged()

    def close(self) -> None:
        """Close all."""
        for checkpoint in self.checkpoints:
            checkpoint.close()

    def __enter__(self) -> Inputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
