"""The plan of a merge, as data: what is read from where, what is done with it, and where the result goes."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import xxhash

from sta_kernels._version import __version__
from sta_kernels.checkpoint.entry import BITS, KERNEL_DTYPES, byte_size
from sta_kernels.checkpoint.layout import Layout
from sta_kernels.engine.config_edit import Edits
from sta_kernels.engine.devices import Placement
from sta_kernels.engine.memory import Budget, page_align
from sta_kernels.kernels.backend import LEAF
from sta_kernels.kernels.buffers import DType
from sta_kernels.methods.base import Method, Place, Settings
from sta_kernels.methods.run import known_of
from sta_kernels.methods.statistics import Statistic, Summary


@dataclass(frozen=True, slots=True)
class Operand:
    """One tensor that a job reads.

    Attributes:
        role: ``base``, ``target``, ``model`` or ``importance``.
        input: index into the plan's inputs.
        name: of the tensor in that input.
        dtype: safetensors code.
        shape: where it is not that of the job's tensor, and the operand is read in one piece.
    """

    role: str
    input: int
    name: str
    dtype: str
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Job:
    """One segment of one tensor, independent of every other.

    Attributes:
        name: of the segment: the tensor's, followed by its rows where the tensor is split.
        tensor: name in the output.
        shape: of the whole tensor.
        action: ``merge``: the method's rule; ``convert``: one operand to another dtype; ``copy``: one operand's bytes;
            ``compare``: nothing is written.
        start: first unit of the segment within the flattened tensor; a unit is an element, or a byte where bytes are
            copied.
        stop: unit after the last.
        dtype: safetensors code of the output.
        operands: in the order base, target, models, importances.
        shard: index of the output file.
        offset: of the segment's first byte in that file.
        settings: of the method; None for the other actions.
        summaries: per model, what the importance file says of the segment, or None.
        tasks: per model, its index among the plan's models.
        block: elements that are merged in the same layer.
        model: elements that are merged altogether.
        differing: ``compare`` only: what to say, the checkpoint in place of ``{}``, of an operand that differs from the
            first.
        refuse: ``compare`` only: a difference is an error rather than a warning.
        granule: units that must not be divided among tiles.
        masks: float32 masks that the method makes of the operands.
        unread: models, by their number among the job's, that are counted but not read.
    """

    name: str
    tensor: str
    shape: tuple[int, ...]
    action: str
    start: int
    stop: int
    dtype: str
    operands: tuple[Operand, ...]
    shard: int = 0
    offset: int = 0
    settings: Settings | None = None
    summaries: tuple[Summary | None, ...] = ()
    tasks: tuple[int, ...] = ()
    block: int = 0
    model: int = 0
    differing: str = ""
    refuse: bool = False
    granule: int = 1
    masks: int = 0
    unread: tuple[int, ...] = ()

    @cached_property
    def size(self) -> int:
        """Units."""
        return self.stop - self.start

    @cached_property
    def in_elements(self) -> bool:
        """Whether a unit is an element rather than a byte."""
        return self.action != "copy"

    @cached_property
    def out_unit(self) -> int:
        """Bytes per unit of the output; 0 where there is none."""
        if self.action == "compare":
            return 0
        return KERNEL_DTYPES[self.dtype].itemsize if self.in_elements else 1

    def unit(self, operand: Operand) -> int:
        """Bytes per unit of an operand."""
        return BITS[operand.dtype] // 8 if self.in_elements else 1

    def bytes_of(self, operand: Operand, units: int) -> int:
        """Bytes of an operand in a tile of that many units."""
        return units * self.unit(operand) if operand.shape is None else byte_size(operand.dtype, operand.shape)

    @cached_property
    def distinct(self) -> tuple[Operand, ...]:
        """Operands that are read, without those that are the same tensor in another role."""
        found: dict[tuple[int, str], Operand] = {}
        models = itertools.count()
        for operand in self.operands:
            if operand.role != "model" or next(models) not in self.unread:
                found.setdefault((operand.input, operand.name), operand)
        return tuple(found.values())

    def memory(self, units: int) -> int:
        """Bytes that a tile of that many units takes in a worker's buffers."""
        made = sum(page_align(units * unit) for unit in (self.out_unit, *self.mask_units))
        return made + sum(page_align(self.bytes_of(operand, units)) for operand in self.distinct)

    @cached_property
    def mask_units(self) -> tuple[int, ...]:
        """Bytes per unit of each mask."""
        return (DType.F32.itemsize,) * self.masks

    @cached_property
    def step(self) -> int:
        """Tiles start at multiples of this many units: of leaves of tier-B sums, and of what must not be divided."""
        return math.lcm(LEAF, self.granule)

    @cached_property
    def bytes_read(self) -> int:
        """Of one pass over all operands."""
        return sum(self.bytes_of(operand, self.size) for operand in self.distinct)

    def of_role(self, role: str) -> tuple[Operand, ...]:
        """Operands of one role, in order."""
        return self._by_role.get(role, ())

    @cached_property
    def _by_role(self) -> dict[str, tuple[Operand, ...]]:
        roles = dict.fromkeys(operand.role for operand in self.operands)
        return {role: tuple(operand for operand in self.operands if operand.role == role) for role in roles}

    @cached_property
    def place(self) -> Place:
        """Of the segment, for its method."""
        shape = self.shape
        if self.size != math.prod(shape):
            shape = (self.size * shape[0] // math.prod(shape), *shape[1:])
        return Place(self.tensor, shape, self.block, self.model)

    def rounds(self, method: Method) -> Iterator[list[tuple[Statistic, Any]]]:
        """The statistics that the method needs, round by round, each with its result where a file carries it."""
        if self.settings is None:
            return
        n_models = len(self.of_role("model"))
        results: list[Any] = []
        while declared := method.statistics(self.settings, n_models, self.place, results):
            found = [(statistic, known_of(statistic, self.summaries)) for statistic in declared]
            yield found
            results += [statistic.unknown if known is None else known for statistic, known in found]

    def whole(self, method: Method) -> bool:
        """Whether the method's rule needs the segment in one piece."""
        has_data = bool(self.of_role("importance"))
        return self.settings is not None and method.in_one_piece(self.settings, self.place, has_data)

    def least(self, method: Method) -> int:
        """Units that a worker's buffers must hold at once."""
        return self.size if self.whole(method) else min(self.size, self.step)

    def streamed(self, method: Method) -> bool:
        """Whether statistics of this segment alone have to be taken before it can be merged tile by tile."""
        return any(
            known is None and statistic.scope == "segment"
            for round_ in self.rounds(method)
            for statistic, known in round_
        )

    def reduced_by(self, statistics: Iterable[Statistic]) -> list[Operand]:
        """Operands that statistics read, each once."""
        return list(dict.fromkeys(o for statistic in statistics for o in statistic.subject.reads(self.of_role)))

    def to_json(self) -> dict[str, Any]:
        """As JSON types; written out, since a plan of thousands of jobs is digested before anything is read."""
        settings = self.settings
        return {
            "name": self.name,
            "tensor": self.tensor,
            "shape": self.shape,
            "action": self.action,
            "start": self.start,
            "stop": self.stop,
            "dtype": self.dtype,
            "operands": [[o.role, o.input, o.name, o.dtype, o.shape] for o in self.operands],
            "shard": self.shard,
            "offset": self.offset,
            "settings": settings and {"shared": dict(settings.shared), "per_model": dict(settings.per_model)},
            "summaries": [s and [s.min, s.max, s.mean] for s in self.summaries],
            "tasks": self.tasks,
            "block": self.block,
            "model": self.model,
            "differing": self.differing,
            "refuse": self.refuse,
            "granule": self.granule,
            "masks": self.masks,
            "unread": self.unread,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Job:
        """Read :meth:`to_json` back."""
        fields = dict(record)
        fields["shape"] = tuple(record["shape"])
        fields["operands"] = tuple(
            Operand(role, index, name, dtype, None if shape is None else tuple(shape))
            for role, index, name, dtype, shape in record["operands"]
        )
        fields["summaries"] = tuple(s and Summary(*s) for s in record["summaries"])
        fields["tasks"] = tuple(record["tasks"])
        fields["unread"] = tuple(record["unread"])
        if record["settings"] is not None:
            per_model = {name: tuple(values) for name, values in record["settings"]["per_model"].items()}
            fields["settings"] = Settings(record["settings"]["shared"], per_model)
        return cls(**fields)


@dataclass(frozen=True)
class Input:
    """A checkpoint that is read.

    Attributes:
        path: as opened.
        importance: whether it holds an importance rather than a model.
        files: (path, size, mtime in ns) of each of its files.
    """

    path: str
    importance: bool
    files: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Plan:
    """Everything that a merge will do, known before a tensor is read.

    Attributes:
        method: name of the method.
        models: the models as the recipe names them, in its order.
        inputs: checkpoints that are read.
        jobs: independent of each other; each names its operands, its settings and its place in the output.
        layout: output shards.
        side_files: (path, size, mtime in ns) of small files copied from the template: configuration, tokenizer and the
            like.
        edits: what changes in the side files.
        placement: device and kernels; they change neither the bits nor the identity.
        budget: memory and workers; nor do they.
        notes: what the reader should know.
        tier: A, or B where a sum in a fixed order takes part.
        bytes_read: of all passes over all operands.
        bytes_shared: of the passes for statistics over several tensors.
        allow_nonfinite: whether NaN and infinity are merged; a result made with it is not one made without.
    """

    method: str
    models: tuple[str, ...]
    inputs: tuple[Input, ...]
    jobs: tuple[Job, ...]
    layout: Layout
    side_files: tuple[tuple[str, int, int], ...]
    edits: Edits
    placement: Placement
    budget: Budget
    notes: tuple[str, ...]
    tier: str
    bytes_read: int
    bytes_shared: int = 0
    allow_nonfinite: bool = False

    @cached_property
    def identity(self) -> str:
        """Digest of all that determines the output: two plans of the same identity give the same bytes."""
        state = xxhash.xxh3_128()
        for record in self._identifying():
            state.update(json.dumps(record, sort_keys=True).encode() + b"\n")
        return state.hexdigest()

    def _identifying(self) -> Iterable[Any]:
        yield [__version__, self.method, self.models, self.side_files, self.allow_nonfinite, asdict(self.edits)]
        yield from (asdict(entry) for entry in self.inputs)
        yield from ([shard.file_name, shard.header.hex(), shard.size] for shard in self.layout.shards)
        yield from (job.to_json() for job in self.jobs)

    def tensors(self, action: str) -> int:
        """Number of tensors that are merged, converted or copied."""
        return len({job.tensor for job in self.jobs if job.action == action})

    def summary(self) -> dict[str, Any]:
        """Figures for the reader, as JSON types."""
        merged = [job for job in self.jobs if job.action == "merge"]
        return {
            "method": self.method,
            **self.placement.to_json(),
            "models": list(self.models),
            "tensors_merged": self.tensors("merge"),
            "tensors_converted": self.tensors("convert"),
            "tensors_copied": self.tensors("copy"),
            "elements_merged": sum(job.size for job in merged),
            "shards": len(self.layout.shards),
            "bytes_read": self.bytes_read,
            "bytes_written": self.layout.size,
            "disk": self.layout.size,
            "peak_memory": self.budget.peak,
            "max_memory": self.budget.limit,
            "device_memory": self.budget.device,
            "threads": self.budget.threads,
            "tier": self.tier,
            "identity": self.identity,
            "notes": list(self.notes),
        }

    def to_json(self) -> dict[str, Any]:
        """The whole plan as JSON types."""
        return {
            **self.summary(),
            "inputs": [asdict(entry) for entry in self.inputs],
            "outputs": [{"file": shard.file_name, "size": shard.size} for shard in self.layout.shards],
            "side_files": [path for path, _, _ in self.side_files],
            "jobs": [job.to_json() for job in self.jobs],
        }
