"""The stages of a run, each of which is taken up where an earlier one of the same settings was stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from benchmarks.accuracy.clip import merges
from benchmarks.accuracy.clip.laboratory import Laboratory, Say
from benchmarks.accuracy.clip.merges import Merge
from benchmarks.accuracy.clip.settings import Layout, Settings
from benchmarks.records import Row
from sta_kernels import Manifest, merge_checkpoints
from sta_kernels.checkpoint import atomic_write
from sta_kernels.engine.manifest import MANIFEST_NAME
from sta_kernels.errors import InputError

PRETRAINED, INDIVIDUAL = "pretrained", "individual"


class Record:
    """What was measured, kept on disk after each row.

    Args:
        settings: of the run; a record of others is refused.

    Raises:
        InputError: the folder holds another run, or something that is none.
    """

    def __init__(self, settings: Settings) -> None:
        self.path = Layout(settings.out).record
        self.content: dict[str, Any] = {"settings": settings.identity() | settings.contents(), "rows": {}}
        if not self.path.exists():
            return
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            before, found["rows"] = found["settings"], dict(found["rows"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{self.path}: not a record of this suite: {error}") from None
        now = self.content["settings"]
        changed = [key for key in now if before.get(key) != now[key]]
        if changed:
            raise InputError(f"{settings.out}: holds a run with another {', '.join(changed)}; choose another --out")
        self.content = found

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Name to row."""
        return self.content["rows"]

    def add(self, name: str, row: dict[str, Any]) -> None:
        """Keep a row."""
        self.rows[name] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(self.path, (json.dumps(self.content, indent=1, ensure_ascii=False) + "\n").encode())


def rates(manifest: Manifest, tasks: Sequence[str]) -> dict[str, dict[str, float]] | None:
    """Per task and tensor, the share of entries that was kept; None for methods that select nothing."""
    tensors = [tensor for tensor in manifest.tensors if "kept" in tensor]
    if not tensors:
        return None
    return {
        task: {tensor["name"]: tensor["kept"][i] / tensor["elements"] for tensor in tensors}
        for i, task in enumerate(tasks)
    }


def kept(manifest: Manifest, tasks: Sequence[str]) -> dict[str, float] | None:
    """Per task, the share of all entries that was kept."""
    summary = manifest.summary()
    if not summary["kept"]:
        return None
    return {task: count / summary["elements_merged"] for task, count in zip(tasks, summary["kept"], strict=True)}


class Run:
    """Merges and evaluates, row by row.

    Args:
        settings: of the run.
        say: receives progress.
        measured: receives each row that this run adds, and the numbers of test pictures.
    """

    def __init__(
        self,
        settings: Settings,
        say: Say,
        measured: Callable[[Row, Mapping[str, int]], None] = lambda row, images: None,
    ) -> None:
        self.settings = settings
        self._measured = measured
        self.layout = Layout(settings.out)
        self.record = Record(settings)
        self.laboratory = Laboratory(settings, say)
        self._say = say

    def all(self) -> dict[str, Any]:
        """Everything that was asked for; returns the record."""
        settings, names = self.settings, self.settings.names
        self.laboratory.prepare()
        self._whole_models()
        if "table2" in settings.parts:
            for merge in merges.table2(names, settings.dare_drop):
                self.merge(merge, names, "table2")
        if "table3" in settings.parts:
            for merge in merges.table3(names):
                self.merge(merge, [*merge.tasks, *self.controls(merge.tasks[0])], "table3")
        if "pairs" in settings.parts:
            for merge in merges.pairs(names):
                self.merge(merge, list(merge.tasks), "pairs")
        return self.record.content

    def controls(self, target: str) -> list[str]:
        """What forgetting a task is to leave alone."""
        if self.settings.control is not None:
            return [self.settings.control.partition("=")[0]]
        return [name for name in self.settings.names if name != target]

    def _whole_models(self) -> None:
        """The pretrained model on everything, the fine-tuned ones on their own tasks."""
        self.images = {name: len(split) for name, split in self.laboratory.test.items()}
        self.record.content["images"] = self.record.content.get("images", {}) | self.images
        before = self.record.rows.get(PRETRAINED, {}).get("accuracy", {})
        missing = [name for name in self.images if name not in before]
        if missing:
            self._say("the pretrained model")
            accuracy = before | self.laboratory.accuracy(self.layout.base, missing)
            self._add(PRETRAINED, {"title": "pretrained", "part": "models", "accuracy": accuracy})
        if INDIVIDUAL not in self.record.rows:
            accuracy = {}
            for name in self.settings.names:
                self._say(f"the model of {name}")
                accuracy |= self.laboratory.accuracy(self.layout.model(name), [name])
            self._add(INDIVIDUAL, {"title": "individual", "part": "models", "accuracy": accuracy})

    def _add(self, name: str, row: Row) -> None:
        self.record.add(name, row)
        self._measured(row, self.record.content["images"])

    def merge(self, merge: Merge, evaluated: list[str], part: str) -> None:
        """Merge and evaluate, unless that was done."""
        if merge.name in self.record.rows:
            return
        if merge.dropped:
            for number, task in enumerate(self.settings.names):
                done = self.layout.dropped(task)
                if not (done / MANIFEST_NAME).exists():
                    self._carry_out(merges.dare(task, self.settings.seed_of(number), self.settings.dare_drop), done)
        self._say(f"{merge.title} ({', '.join(merge.tasks)})")
        folder = self.layout.merged(merge.name)
        manifest = self._carry_out(merge, folder)
        row: Row = {
            "title": merge.title,
            "part": part,
            "tasks": list(merge.tasks),
            "accuracy": self.laboratory.accuracy(folder, evaluated),
            "kept": kept(manifest, merge.tasks),
        }
        if part == "table2" and merge.method == "sta":
            row["rates"] = rates(manifest, merge.tasks)
        self._add(merge.name, row)
        if not self.settings.keep:
            shutil.rmtree(folder)

    def _carry_out(self, merge: Merge, folder: Any) -> Manifest:
        """Write the recipe and do what it says: the code path of ``sta-kernels merge``."""
        path = self.layout.recipe(merge.name)
        content = merge.content(self.layout, count_frozen=self.settings.count_frozen)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        folder.parent.mkdir(parents=True, exist_ok=True)
        manifest = merge_checkpoints(path, folder, overwrite=True)
        assert isinstance(manifest, Manifest)  # not a dry run
        return manifest
