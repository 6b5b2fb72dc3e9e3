"""Merge checkpoints from disk to disk."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sta_kernels._version import __version__
from sta_kernels.engine.config_edit import TEMPLATE_FILE
from sta_kernels.engine.destination import check_place, finished_merge, making, outlook, refusal
from sta_kernels.engine.devices import Kernels, open_kernels, place
from sta_kernels.engine.digests import InputDigests
from sta_kernels.engine.flow import executor_type
from sta_kernels.engine.groups import GroupRun, group_runs
from sta_kernels.engine.inputs import Inputs
from sta_kernels.engine.jobs import Plan
from sta_kernels.engine.journal import JOURNAL_NAME, Journal, Records, read_journal
from sta_kernels.engine.lock import locked
from sta_kernels.engine.manifest import Manifest, read_manifest, tensor_records
from sta_kernels.engine.memory import PAGE, Arena, parse_size
from sta_kernels.engine.model_card import model_card
from sta_kernels.engine.output import (
    CARD_NAME,
    MANIFEST_NAME,
    OWN_NAMES,
    RECIPE_NAME,
    FileRecord,
    Shards,
    copy_side_file,
    remove_partials,
    remove_stale,
    write_small,
)
from sta_kernels.engine.planning import make_plan
from sta_kernels.engine.profile import BY_WORKERS, Profile
from sta_kernels.engine.runs import Checks, JobRun, batches
from sta_kernels.engine.scheduler import Activity, run_activities
from sta_kernels.errors import InputError
from sta_kernels.kernels import default_threads
from sta_kernels.recipe import Recipe

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, int, int], None]


def merge_checkpoints(
    recipe: Recipe | str | os.PathLike[str] | Mapping[str, Any],
    out: str | os.PathLike[str],
    *,
    device: str | torch.device | None = "auto",
    threads: int | None = None,
    max_memory: int | str | None = None,
    out_shard_size: int | str = "5GB",
    overwrite: bool = False,
    allow_nonfinite: bool = False,
    copy_tokenizer: bool = True,
    write_model_card: bool = True,
    dry_run: bool = False,
    progress: Progress | None = None,
    profile: Profile | None = None,
) -> Manifest | Plan:
    """Merge the checkpoints of a recipe into a folder, in bounded memory.

    Tensors go through in tiles: read by position, merged, written, digested. A merge that was killed is continued by
    the same call, to the same bits. None of ``device``, ``threads`` and ``max_memory`` changes a bit, and a merge that
    was begun with some may be continued with others.

    Args:
        recipe: a recipe, the path of one, or its content as a mapping.
        out: folder for the result: safetensors, the template's side files, a model card, the recipe, and the manifest,
            which is written last. What already holds this very merge is left as it is.
        device: where the kernels run: ``cpu``; ``cuda`` or ``cuda:1``, to which tiles are copied; ``interpret``, in
            Triton's interpreter on the CPU, slowly, as a proof; ``auto`` or None, by where the bytes are: those of
            files pass through main memory, so the CPU. The plan and the manifest say which, and why.
        threads: workers, on a GPU with a stream each; None is one per processor.
        max_memory: bound on the anonymous memory of the whole process, in bytes or as ``256MB``; at least 192 MB. None
            is 2 GiB, or a quarter of the memory where that is less.
        out_shard_size: most bytes of tensors per output file.
        overwrite: replace what ``out`` holds.
        allow_nonfinite: merge NaN and infinity rather than refuse them.
        copy_tokenizer: copy the template's tokenizer files along with its other side files.
        write_model_card: write README.md.
        dry_run: return the plan, and touch nothing.
        progress: called from this thread with a stage, the bytes it has read, and those it will.
        profile: told how long each stage takes.

    Returns:
        The manifest; with ``dry_run``, the plan.

    Raises:
        InputError: a recipe, a checkpoint or an argument that cannot be merged as it stands; names file and tensor.
        RunError: the machine failed, or an input changed; the same call continues.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads: expected 1 or more, got {threads}")
    loaded = _load(recipe)
    placement = place(device)
    loaded.method.prepare()  # before the plan, as the kernels: what they load takes memory
    kernels = open_kernels(placement)
    with Inputs(loaded) as inputs:
        folder = Path(os.path.expanduser(out))
        check_place(folder, inputs)
        plan = make_plan(
            loaded,
            inputs,
            shard_bytes=parse_size(out_shard_size, "out_shard_size"),
            threads=threads or default_threads(),
            max_memory=max_memory,
            placement=placement,
            allow_nonfinite=allow_nonfinite,
            copy_tokenizer=copy_tokenizer,
            write_model_card=write_model_card,
        )
        if dry_run:
            return replace(plan, notes=(*plan.notes, *outlook(folder, plan, overwrite)))
        with making(folder), locked(folder), plan.budget.admitted():
            finished = None if overwrite else finished_merge(folder, plan)
            if finished is not None:
                return finished
            profile = Profile() if profile is None else profile
            return _Merge(loaded, inputs, plan, folder, kernels, allow_nonfinite, progress, profile).run(overwrite)


def _load(recipe: Recipe | str | os.PathLike[str] | Mapping[str, Any]) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    return Recipe.parse(recipe) if isinstance(recipe, Mapping) else Recipe.load(recipe)


class _Merge:
    """One run, from the first byte to the manifest, under the folder's lock."""

    def __init__(
        self,
        recipe: Recipe,
        inputs: Inputs,
        plan: Plan,
        folder: Path,
        kernels: Kernels,
        allow_nonfinite: bool,
        progress: Progress | None,
        profile: Profile,
    ) -> None:
        self._recipe = recipe
        self._inputs = inputs
        self._plan = plan
        self._folder = folder
        self._kernels = kernels
        self._allow_nonfinite = allow_nonfinite
        self._progress = progress
        self._profile = profile

    def run(self, overwrite: bool) -> Manifest:
        """Go on from the journal, or start."""
        self._profile.planned()
        records = self._records(overwrite)
        journal = Journal(self._folder / JOURNAL_NAME, self._plan.identity, keep=records.length if records else 0)
        finished = False
        try:
            with (
                contextlib.closing(InputDigests(self._inputs)) as digests,
                Shards(self._folder, self._plan, journal, records) as shards,
            ):
                manifest = self._work(shards, journal, digests, records)
            finished = True
            self._profile.ended()
            return manifest
        except InputError:
            # These inputs will never get through; what was written of them is of no use to any later run.
            finished = True
            remove_partials(self._folder, self._names())
            raise
        finally:
            journal.close(remove=finished)

    def _records(self, overwrite: bool) -> Records | None:
        """What an earlier run of this plan left; refuses a folder that holds anything else."""
        records = read_journal(self._folder / JOURNAL_NAME)
        if records is not None and records.identity == self._plan.identity:
            return records
        problem = None if overwrite else refusal(self._folder, self._plan, records)
        if problem is not None:
            raise InputError(problem)
        remove_partials(self._folder, self._names())
        return None

    def _work(self, shards: Shards, journal: Journal, digests: InputDigests, records: Records | None) -> Manifest:
        plan, method = self._plan, self._recipe.method
        budget = plan.budget
        served, before = plan.placement.to_json(), records.served if records else []
        if before[-1:] != [served]:
            journal.served(served)
        kept_bytes = shards.prove(budget.threads)
        shards.write_headers()
        executor = executor_type(self._kernels.backend)(
            method,
            self._kernels.backend,
            self._inputs,
            shards,
            journal,
            digests,
            budget,
            self._profile,
            differing=records.differing if records else (),
            varying=records.varying if records else (),
            allow_nonfinite=self._allow_nonfinite,
        )
        runs: list[JobRun] = []
        earlier: dict[int, list[Any]] = {}

        def unfinished() -> Iterator[JobRun]:
            """Made one by one, as their turn comes: accumulators take memory."""
            for i, job in enumerate(plan.jobs):
                kept, shared = shards.kept(i, job), earlier.get(i, ())
                run = JobRun(
                    i,
                    job,
                    method,
                    budget,
                    kept,
                    shared,
                    executor.reduce,
                    executor.finish,
                    flows=executor.flows(job),
                    finite=not self._allow_nonfinite,
                )
                runs.append(run)
                if not run.finished:
                    yield run

        groups: list[GroupRun] = []

        def grouped() -> Iterator[GroupRun]:
            """The same of blocks, or the model."""
            for run in group_runs(plan, method, executor.reduce, executor, executor.flows):
                groups.append(run)
                yield run

        if plan.bytes_shared:
            self._work_on(grouped(), "statistics", plan.bytes_shared)
            earlier.update((member, run.results) for run in groups for member in run.members)
        self._work_on(batches(unfinished(), budget.flow), "merge", plan.bytes_read - plan.bytes_shared)
        self._complete(digests)
        self._complete(shards)
        self._inputs.check_unchanged()
        merged = [(run.job, run.counts) for run in runs if run.job.action == "merge"]
        tensors = tensor_records(method, merged, len(plan.models))
        notes = (
            *plan.notes,
            *executor.warned,
            *self._equal_models(executor.differing),
            *self._useless(executor.varying),
        )
        if len(plan.models) > 1 and tensors and all(r.get("unrouted") == r["elements"] for r in tensors):
            notes += ("nothing was added: the result is the base; do two models share an importance?",)
        for note in notes[len(self._recipe.notes) :]:
            warnings.warn(note, stacklevel=4)
        self._remove_replaced()
        with contextlib.suppress(FileNotFoundError):
            (self._folder / MANIFEST_NAME).unlink()
        if self._progress is not None:
            self._progress("sync", 0, plan.layout.size)
        with self._profile.timing("sync"):
            shard_files = shards.publish()
        with self._profile.timing("publish"):
            files_written = self._publish(shard_files)
        by_file = digests.result()
        inputs = tuple(
            {
                "path": record.path,
                "importance": record.importance,
                "files": [
                    {"path": file, "size": size, "mtime_ns": mtime, "digest": by_file[file]}
                    for file, size, mtime in record.files
                ],
            }
            for record in plan.inputs
        )
        manifest = Manifest(
            version=__version__,
            identity=plan.identity,
            method=plan.method,
            tier=plan.tier,
            served_by=served,
            served_before=tuple(other for i, other in enumerate(before) if other not in (served, *before[:i])),
            recipe=self._recipe.text,
            inputs=inputs,
            files=files_written,
            tensors=tensors,
            copied=tuple(run.job.tensor for run in runs if run.job.action in ("copy", "convert")),
            notes=notes,
            kept_bytes=kept_bytes,
        )
        write_small(self._folder, MANIFEST_NAME, manifest.to_bytes())
        return manifest

    def _work_on(self, activities: Iterable[Activity], stage: str, total: int) -> None:
        """Have the workers do them, and note what lies between what they note."""
        budget, profile = self._plan.budget, self._profile
        profile.threads, before = budget.threads, sum(profile.seconds[each] for each in BY_WORKERS)
        begin = time.perf_counter()
        arena = partial(self._kernels.arena, budget.arena)
        run_activities(activities, budget.threads, arena, self._tick(stage, total))
        available = (time.perf_counter() - begin) * budget.threads
        profile.charge("between", available - (sum(profile.seconds[each] for each in BY_WORKERS) - before))

    def _complete(self, digests: InputDigests | Shards) -> None:
        """Read again what did not pass in one piece."""
        unread: list[Any] = digests.incomplete()
        if unread:
            tick = self._tick("digest", sum(map(digests.length, unread)))
            threads = self._plan.budget.threads
            run_activities([Checks(unread, digests.complete)], threads, partial(Arena, PAGE), tick)

    def _names(self) -> set[str]:
        """Of all files that this merge writes."""
        layout = self._plan.layout
        names = {*OWN_NAMES, *(shard.file_name for shard in layout.shards)}
        names.update(Path(path).name for path, _, _ in self._plan.side_files)
        names.update([TEMPLATE_FILE] if self._plan.edits.chat_template is not None else [])
        return names if layout.index_name is None else {*names, layout.index_name}

    def _remove_replaced(self) -> None:
        """Remove what an earlier merge wrote here and this one does not: a tokenizer of another model, say."""
        try:
            earlier = read_manifest(self._folder)
        except InputError:  # it can be replaced without being understood
            return
        for name in set(earlier.files if earlier is not None else ()) - self._names():
            if Path(name).name == name:
                (self._folder / name).unlink(missing_ok=True)

    def _tick(self, stage: str, total: int) -> Callable[[int], None] | None:
        progress = self._progress
        return None if progress is None else lambda done: progress(stage, min(done, total), total)

    def _equal_models(self, differing: set[int]) -> list[str]:
        """Models whose task vector is zero: most likely a wrong path."""
        merged = [job for job in self._plan.jobs if job.action == "merge"]
        compared = {bool(job.of_role("base")) for job in merged}
        unread = {job.tasks[i] for job in merged for i in job.unread}
        if compared != {True}:
            return []
        return [
            f"{name}: equals the base in every merged tensor, so that it adds nothing"
            for i, name in enumerate(self._plan.models)
            if i not in differing | unread
        ]

    def _useless(self, varying: set[int]) -> list[str]:
        """Models whose importance ranks nothing: most likely zeros that nobody filled."""
        data = self._recipe.method.data
        if data.signed or not data.elementwise:
            return []
        merged = (job for job in self._plan.jobs if job.action == "merge" and job.size > 1)
        ranked = {job.tasks[i] for job in merged for i, _ in enumerate(job.of_role("importance"))}
        return [
            f"{name}: its importance is the same everywhere in each tensor, 0 or another number: it ranks nothing"
            for i, name in enumerate(self._plan.models)
            if i in ranked - varying
        ]

    def _publish(self, shards: Mapping[str, FileRecord]) -> dict[str, FileRecord]:
        """Write what stands beside the shards, the manifest excepted; returns what that says of all files."""
        folder, plan, layout = self._folder, self._plan, self._plan.layout
        files = dict(shards)
        if layout.index is not None and layout.index_name is not None:
            files[layout.index_name] = write_small(folder, layout.index_name, layout.index)
        for side_file in (Path(path) for path, _, _ in self._plan.side_files):
            if side_file.name not in OWN_NAMES:
                files[side_file.name] = copy_side_file(side_file, folder, plan.edits)
        template = plan.edits.chat_template
        if template is not None and TEMPLATE_FILE not in files:
            files[TEMPLATE_FILE] = write_small(folder, TEMPLATE_FILE, template.encode())
        files[RECIPE_NAME] = write_small(folder, RECIPE_NAME, self._recipe.text.encode())
        if plan.edits.card:
            files[CARD_NAME] = write_small(folder, CARD_NAME, model_card(self._recipe, plan).encode())
        remove_stale(folder, files)
        if self._progress is not None:
            self._progress("sync", layout.size, layout.size)
        return files
