"""What a manifest does not hold, from the inputs: selections, norms, angles, and where tasks contend.

Tensors are read in tiles, so that memory does not grow with them. Selections are those of the merge, bit for bit: the
same importances, statistics and ranks.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sta_kernels.checkpoint import Checkpoint, hash_file, open_checkpoint
from sta_kernels.checkpoint.entry import KERNEL_DTYPES, byte_size
from sta_kernels.engine import Manifest
from sta_kernels.engine.devices import place
from sta_kernels.engine.inputs import Inputs
from sta_kernels.engine.jobs import Job, Operand
from sta_kernels.engine.output import is_whole
from sta_kernels.engine.planning import make_plan
from sta_kernels.errors import InputError
from sta_kernels.kernels import default_threads, get_backend
from sta_kernels.kernels.backend import LEAF, Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.reference.sta_merge import normalise_exact
from sta_kernels.methods.base import Operands
from sta_kernels.methods.conversion import convert
from sta_kernels.methods.groups import group
from sta_kernels.methods.run import known_of
from sta_kernels.methods.selection import Segment
from sta_kernels.methods.sta import Sta, normaliser
from sta_kernels.methods.statistics import Statistic, update_together
from sta_kernels.recipe import Recipe
from sta_kernels.report.facts import file_records
from sta_kernels.report.selection import selected

_HELD = 1 << 20
"""Elements of all operands of a tile."""
Progress = Callable[[str, int, int], None]
_Read = dict[tuple[int, str], Buffer]
_Group = tuple[list[Job], list[int], int]


@dataclass
class Measured:
    """Sums over one merged segment; those of several add up.

    Attributes:
        gram: products of the task vectors, and last of what the merge added, float64 [N + 1, N + 1].
        base: square of the base's norm.
        mass: sum of |τ| over positions and models.
        left: sum over positions of |Σ τ|: what the mass comes to where opposite signs cancel.
        shared: entries that both of two models keep, int64 [N, N]; None where nothing is selected.
        chosen: positions at which 0 to N models are kept, int64 [N + 1]; None likewise.
        dispute: sum over positions of the greatest normalised importance dropped, divided by the least one kept.
        disputed: positions that were counted in it: where some model is kept and another is not.
    """

    gram: np.ndarray[Any, Any]
    base: float = 0.0
    mass: float = 0.0
    left: float = 0.0
    shared: np.ndarray[Any, Any] | None = None
    chosen: np.ndarray[Any, Any] | None = None
    dispute: float = 0.0
    disputed: int = 0

    def add(self, other: Measured) -> None:
        """Take in another segment."""
        self.gram = self.gram + other.gram
        self.base += other.base
        self.mass += other.mass
        self.left += other.left
        if other.shared is not None:
            self.shared = other.shared if self.shared is None else self.shared + other.shared
        if other.chosen is not None:
            self.chosen = other.chosen if self.chosen is None else self.chosen + other.chosen
        self.dispute += other.dispute
        self.disputed += other.disputed

    @property
    def norms(self) -> np.ndarray[Any, Any]:
        """Norms of the task vectors, and last of what the merge added."""
        return np.sqrt(np.diag(self.gram))

    @property
    def cosines(self) -> np.ndarray[Any, Any]:
        """Of the same, each with each; NaN where one is zero."""
        norms = self.norms
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.gram / np.outer(norms, norms)

    @property
    def cancelled(self) -> float:
        """Share of the task vectors' mass that opposite signs cancel."""
        return 1 - self.left / self.mass if self.mass else 0.0

    @property
    def closeness(self) -> float | None:
        """Mean of the greatest importance dropped over the least one kept: 1 where every position is a draw."""
        return self.dispute / self.disputed if self.disputed else None


def measure(manifest: Manifest, out: Path, progress: Progress | None = None) -> dict[str, Measured]:
    """Read the inputs of a merge, and its result, and take the sums of every merged segment.

    Args:
        manifest: of the merge.
        out: its folder.
        progress: called with a stage, the bytes read, and those to be read.

    Returns:
        By the segment's name.

    Raises:
        InputError: inputs or result are not there, or not as they were; the method reads no base.
        RunError: a file cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they were given when the merge was made
        recipe = Recipe.parse(manifest.recipe)
        if not is_whole(out, manifest.files):
            raise InputError(f"{out}: its files are not those that the merge wrote")
        with Inputs(recipe) as inputs, open_checkpoint(out) as merged:
            _check_unchanged(inputs, manifest)
            plan = make_plan(recipe, inputs, shard_bytes=1 << 62, threads=1, max_memory=None, placement=place("cpu"))
            jobs = [job for job in plan.jobs if job.action == "merge"]
            if any(not job.of_role("base") for job in jobs):
                raise InputError(f"{manifest.method}: was given no base, so that there are no task vectors")
            found = _Measuring(recipe, inputs, merged, jobs, len(plan.models), progress).run()
    _check_counts(manifest, found)
    return found


def _check_unchanged(inputs: Inputs, manifest: Manifest) -> None:
    """Refuse files that are not those which were merged; what has another date is read, for its digest."""
    merged = file_records(manifest.inputs)
    for path, size, mtime in (file for record in inputs.records for file in record.files):
        if path not in merged:
            raise InputError(f"{path}: was not there when the models were merged")
        record = merged[path]
        same = record["size"] == size
        if not same or (record.get("mtime_ns") != mtime and hash_file(path)[1].hex() != record["digest"]):
            raise InputError(f"{path}: has changed since the models were merged")


def _check_counts(manifest: Manifest, found: dict[str, Measured]) -> None:
    """Selections must be those that the merge counted."""
    for record in manifest.tensors:
        measured = found.get(record["name"])
        if measured is None or (
            measured.shared is not None and np.diag(measured.shared).tolist() != list(record["kept"])
        ):
            raise InputError(f"{record['name']!r}: the inputs do not give what the manifest counted; merge again")


class _Measuring:
    """One pass over all segments, after one over those importances whose range or mean no file carries."""

    def __init__(
        self,
        recipe: Recipe,
        inputs: Inputs,
        merged: Checkpoint,
        jobs: Sequence[Job],
        n_models: int,
        progress: Progress | None,
    ) -> None:
        self._method = recipe.method
        self._inputs = inputs
        self._merged = merged
        self._jobs = jobs
        self._n_models = n_models
        self._progress = progress
        self._backend: Backend = get_backend()
        self._lock = threading.Lock()
        self._bytes = self._total = 0

    def run(self) -> dict[str, Measured]:
        """All segments."""
        method = self._method
        groups = list(self._groups()) if isinstance(method, Sta) else []
        reduced = [job for members, _, _ in groups if not self._known(members) for job in members]
        self._total = sum(job.size * sum(map(job.unit, self._wanted(job, "importances"))) for job in reduced)
        for job in self._jobs:
            self._total += job.size * (sum(map(job.unit, self._wanted(job))) + job.out_unit)
        tables: dict[str, np.ndarray[Any, Any]] = {}
        found = {job.name: Measured(np.zeros((self._n_models + 1, self._n_models + 1))) for job in self._jobs}
        with ThreadPoolExecutor(default_threads()) as pool:
            for each in pool.map(self._normalisers, groups):
                tables |= each

            def one(tile: tuple[Job, int, int]) -> Measured:
                return self._tile(*tile, tables)

            tiles = [(job, start, stop) for job in self._jobs for start, stop in _tiles(job)]
            # In the tiles' order, whichever is done first: so sums are rounded alike in every run.
            for (job, _, _), measured in zip(tiles, pool.map(one, tiles), strict=True):
                found[job.name].add(measured)
        return found

    def _tile(self, job: Job, start: int, stop: int, tables: dict[str, np.ndarray[Any, Any]]) -> Measured:
        read = self._read(job, self._wanted(job), start, stop)
        measured = self._vectors(job, read, start, stop)
        if isinstance(self._method, Sta):
            measured.add(self._selections(job, self._method, tables[job.name], read, stop - start))
        self._tell(sum(content.owner.size for content in read.values()) + (stop - start) * job.out_unit)
        return measured

    def _tell(self, count: int) -> None:
        """Progress, by any thread."""
        with self._lock:
            self._bytes += count
            if self._progress is not None:
                self._progress("report", self._bytes, self._total)

    def _wanted(self, job: Job, what: str = "all") -> list[Operand]:
        """Operands that are read, each tensor once."""
        wanted = job.reduced_by(self._declared(job)) if isinstance(self._method, Sta) else []
        if what == "all":
            wanted = [*job.of_role("base"), *job.of_role("model"), *wanted]
        return list({_key(operand): operand for operand in wanted}.values())

    def _read(self, job: Job, operands: Sequence[Operand], start: int, stop: int) -> _Read:
        """A range of operands, in memory."""
        read = {}
        for operand in operands:
            unit = job.unit(operand)
            content = np.empty((stop - start) * unit, np.uint8)
            checkpoint = self._inputs.checkpoints[operand.input]
            checkpoint.read_into(operand.name, (job.start + start) * unit, content)
            dtype = KERNEL_DTYPES[operand.dtype]
            read[_key(operand)] = Buffer(content.ctypes.data, dtype, (stop - start,), None, content)
        return read

    def _result(self, job: Job, start: int, stop: int) -> Buffer:
        """The same of what the merge wrote."""
        entry = self._merged.find(job.tensor)
        if entry is None or entry.dtype != job.dtype or byte_size(entry.dtype, entry.shape) < job.stop * job.out_unit:
            raise InputError(f"{self._merged.path}: {job.tensor!r} is not what the merge wrote")
        content = np.empty((stop - start) * job.out_unit, np.uint8)
        self._merged.read_into(job.tensor, (job.start + start) * job.out_unit, content)
        return Buffer(content.ctypes.data, KERNEL_DTYPES[job.dtype], (stop - start,), None, content)

    def _floats(self, buffer: Buffer, out: np.ndarray[Any, Any]) -> None:
        convert(self._backend, buffer, Buffer.from_numpy(out))

    def _vectors(self, job: Job, read: _Read, start: int, stop: int) -> Measured:
        """Norms, products and signs of one tile."""
        (base,), models = job.of_role("base"), job.of_role("model")
        start_of_all = np.empty(stop - start, np.float32)
        vectors = np.zeros((self._n_models + 1, stop - start), np.float32)
        self._floats(read[_key(base)], start_of_all)
        rows = [*job.tasks, self._n_models]
        ends = [*(read[_key(model)] for model in models), self._result(job, start, stop)]
        for row, buffer in zip(rows, ends, strict=True):
            self._floats(buffer, vectors[row])
            vectors[row] -= start_of_all
        taus = vectors[:-1]
        exact = vectors.astype(np.float64)
        return Measured(
            exact @ exact.T,
            base=float(np.square(start_of_all, dtype=np.float64).sum()),
            mass=float(np.abs(taus).sum(dtype=np.float64)),
            left=float(np.abs(taus.sum(axis=0)).sum(dtype=np.float64)),
        )

    def _selections(self, job: Job, method: Sta, table: np.ndarray[Any, Any], read: _Read, size: int) -> Measured:
        """Who is selected in one tile, and how close it was."""
        assert job.settings is not None
        k = method.rank(job.settings, len(job.tasks))
        operands = _importance_operands(job, read)
        subjects = [statistic.subject for statistic in self._declared(job)]
        values = np.stack([self._backend.values(s.source(operands), 0, size) for s in subjects])
        scores = normalise_exact(values, table[:, 0], table[:, 1])
        mask = selected(self._backend, values, table, k, job.settings.shared["ties"])
        exact = mask.astype(np.float32)  # counts below 2²⁴, which a tile's are
        shared = np.zeros((self._n_models, self._n_models), np.int64)
        shared[np.ix_(job.tasks, job.tasks)] = np.rint(exact @ exact.T).astype(np.int64)
        measured = Measured(np.zeros((self._n_models + 1, self._n_models + 1)), shared=shared)
        measured.chosen = np.bincount(mask.sum(axis=0), minlength=self._n_models + 1)
        dropped = np.where(mask, np.float32(-np.inf), scores).max(axis=0)
        kept = np.where(mask, scores, np.float32(np.inf)).min(axis=0)
        valid = np.isfinite(dropped) & np.isfinite(kept) & (kept > 0)
        measured.dispute = float((dropped[valid] / kept[valid]).sum(dtype=np.float64))
        measured.disputed = int(valid.sum())
        return measured

    def _declared(self, job: Job) -> tuple[Statistic, ...]:
        assert job.settings is not None
        return self._method.statistics(job.settings, len(job.tasks), job.place, ())

    def _normalisers(self, group: _Group) -> dict[str, np.ndarray[Any, Any]]:
        """Shift and divisor per model of each segment of a group, float32 [N, 2]."""
        members = group[0]
        results = self._known(members) or self._reduce(*group)
        settings = [job.settings for job in members if job.settings is not None]
        tables = (normaliser(each.shared["normalise"], results) for each in settings)
        return dict(zip((job.name for job in members), tables, strict=True))

    def _groups(self) -> Iterator[_Group]:
        """Segments that are normalised together, where each starts, and where the last one ends."""
        blocks: dict[int, Segment] = {}
        for i, job in enumerate(self._jobs):
            if self._declared(job)[0].scope == "block":
                blocks[i] = Segment(job.name, job.tensor, None, job.start, job.stop, job.place.shape)
            else:
                yield [job], [0], job.size
        for each in group("block", blocks):
            yield [self._jobs[i] for i in each.offsets], list(each.offsets.values()), each.extent

    def _known(self, members: Sequence[Job]) -> list[Any]:
        """What the importance files say of a group; nothing where one of them does not say it."""
        results = [known_of(statistic, members[0].summaries) for statistic in self._declared(members[0])]
        return results if all(result is not None for result in results) else []

    def _reduce(self, members: Sequence[Job], offsets: Sequence[int], extent: int) -> list[Any]:
        """Range or mean of each model's importance over one segment, or all of a layer, from its entries."""
        declared = self._declared(members[0])
        count = sum(job.size for job in members)
        accumulators = [statistic.accumulator(count, extent) for statistic in declared]
        for job, offset in zip(members, offsets, strict=True):
            for start, stop in _tiles(job):
                read = self._read(job, self._wanted(job, "importances"), start, stop)
                operands = _importance_operands(job, read)
                sources = [statistic.subject.source(operands) for statistic in declared]
                update_together(accumulators, sources, self._backend, offset + start, threads=1)
                self._tell(sum(content.owner.size for content in read.values()))
        for accumulator in accumulators:
            accumulator.end_of_pass()
        return [accumulator.result for accumulator in accumulators]


def _tiles(job: Job) -> Iterator[tuple[int, int]]:
    """Ranges of a job that start where a leaf of a sum does."""
    step = max(_HELD // (len(job.operands) + 1) // LEAF, 1) * LEAF
    for start in range(0, job.size, step):
        yield start, min(start + step, job.size)


def _key(operand: Operand) -> tuple[int, str]:
    """The same for one tensor in several roles."""
    return operand.input, operand.name


def _importance_operands(job: Job, read: _Read) -> Operands:
    """What the importances of one tile are made of; None for what they are not."""

    def of(role: str) -> tuple[Any, ...]:
        return tuple(read.get(_key(operand)) for operand in job.of_role(role))

    return Operands(models=of("model"), importances=of("importance"))
