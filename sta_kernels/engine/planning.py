"""From a recipe and the headers of its checkpoints to a plan; no tensor is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sta_kernels.checkpoint import TensorEntry, plan_shards
from sta_kernels.engine import notes
from sta_kernels.engine.config_edit import Edits
from sta_kernels.engine.devices import Placement
from sta_kernels.engine.flowing import flows, read_whole, statistics_bytes
from sta_kernels.engine.groups import plan_groups
from sta_kernels.engine.inputs import Inputs
from sta_kernels.engine.jobs import Job, Operand, Plan
from sta_kernels.engine.memory import Budget
from sta_kernels.engine.origins import strangers
from sta_kernels.engine.regions import Region, regions
from sta_kernels.errors import InputError
from sta_kernels.kernels.native_flow import can_flow
from sta_kernels.methods.base import Place, Settings
from sta_kernels.methods.groups import places
from sta_kernels.methods.selection import (
    COPIED_DTYPES,
    MERGED_DTYPES,
    Segment,
    Selection,
    check_split,
    segments,
    select,
    select_importances,
)
from sta_kernels.methods.statistics import Summary
from sta_kernels.recipe import Recipe
from sta_kernels.recipe.values import filters


def make_plan(
    recipe: Recipe,
    inputs: Inputs,
    *,
    shard_bytes: int,
    threads: int,
    max_memory: int | str | None,
    placement: Placement,
    allow_nonfinite: bool = False,
    copy_tokenizer: bool = True,
    write_model_card: bool = True,
) -> Plan:
    """Decide what is done with every tensor.

    Args:
        recipe: checked.
        inputs: its checkpoints.
        shard_bytes: most tensor bytes per output file.
        threads: workers wanted.
        max_memory: limit, or None for the default.
        placement: device and kernels.
        allow_nonfinite: merge NaN and infinity.
        copy_tokenizer: copy the template's tokenizer files.
        write_model_card: write README.md.

    Raises:
        InputError: names, shapes, dtypes or importances that do not match; too little memory.
    """
    planners = [_Planner(region) for region in regions(recipe, inputs)]
    where = places(part for planner in planners for part in planner.select())
    jobs = [job for planner in planners for job in planner.jobs(where)]
    described = {job.tensor: (job.tensor, job.dtype, job.shape) for job in jobs if job.action != "compare"}
    names = [name for planner in planners for name in planner.names if name in described]
    aliases = {alias: first for planner in planners for alias, first in planner.aliases.items()}
    # The alias table is what safetensors' own load_model reads to tie the names again.
    layout = plan_shards([described[name] for name in names], shard_bytes, {"format": "pt", **aliases})
    place = {tensor.name: (i, tensor) for i, shard in enumerate(layout.shards) for tensor in shard.tensors}
    placed = []
    for job in jobs:
        if job.size == 0:
            continue
        if job.action != "compare":
            shard, tensor = place[job.tensor]
            job = replace(job, shard=shard, offset=tensor.offset + job.start * job.out_unit)
        placed.append(job)
    placed.sort(key=lambda job: (job.shard, job.offset))
    method = recipe.method
    declared = [statistic for job in placed for round_ in job.rounds(method) for statistic, _ in round_]
    sets = {job.tasks for job in placed if job.action == "merge"}
    if len(sets) > 1 and any(statistic.scope == "model" for statistic in declared):
        raise InputError("slices, modules: a statistic over the model needs the same models in the same order in each")
    needing = [job for job in placed if job.streamed(method)]
    segment_bytes = (job.memory(job.size) for job in needing)
    undivided = [job for job in placed if job.granule > 1 or job.whole(method)]
    most = max((job.memory(job.least(method)) for job in undivided), default=0)
    working = max((method.workspace(job.place, len(job.of_role("model"))) for job in undivided), default=0)
    for job in placed:
        if job.settings is not None:
            method.check_place(job.settings, job.place)
    for settings in {id(job.settings): job.settings for job in placed}.values():
        if settings is not None:
            method.check_names(settings, described.keys())
    budget = Budget.plan(
        max_memory,
        threads,
        placement.kind,
        segment_bytes,
        placement.free,
        whole_bytes=most,
        workspace=working,
        shared=plan_groups(placed, method, threads),
    )
    for job in placed:
        check_tile(job, budget)
    native = placement.kind == "native" and can_flow()
    flowing = {job.name for job in placed if native and flows(job, method, inputs)}
    shared = sum(statistics_bytes(job, method, ("block", "model"), job.name in flowing) for job in placed)
    alone = sum(
        statistics_bytes(job, method, ("segment",), job.name in flowing)
        for job in needing
        if not read_whole(job, method, budget, flowing=job.name in flowing)
    )
    tiers = {statistic.tier for statistic in declared}
    edits = Edits.of(recipe, inputs, tokenizer=copy_tokenizer, card=write_model_card)
    side_files = [file for file in inputs.checkpoints[inputs.template].side_files() if edits.keeps(file)]
    return Plan(
        method=recipe.method_name,
        models=tuple(spec.name or spec.model for spec in recipe.models),
        inputs=inputs.records,
        jobs=tuple(placed),
        layout=layout,
        side_files=tuple(_fingerprint(file) for file in side_files),
        edits=edits,
        placement=placement,
        budget=budget,
        notes=tuple(dict.fromkeys((*recipe.notes, *strangers(inputs), *_notes(planners), *edits.notes(side_files)))),
        tier=max(tiers | {method.tier}),
        bytes_read=sum(job.bytes_read for job in placed) + shared + alone,
        bytes_shared=shared,
        allow_nonfinite=allow_nonfinite,
    )


def _fingerprint(file: Path) -> tuple[str, int, int]:
    try:
        status = file.stat()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or error}") from None
    return str(file), status.st_size, status.st_mtime_ns


def check_tile(job: Job, budget: Budget) -> None:
    """Raise InputError where not even the smallest tile of a job fits a worker's buffers."""
    if job.memory(min(job.size, job.step)) > budget.arena:
        raise InputError(
            f"max_memory: {budget.limit:,} bytes is too little for {job.name!r} with {budget.threads} workers"
        )


def _notes(planners: Sequence[_Planner]) -> Iterator[str]:
    """What the planners have to say; a filter of all regions needs to find a tensor in one."""
    for planner in planners:
        yield from planner.notes
    found = {note for planner in planners for note, match in planner.filters.items() if match}
    yield from (note for planner in planners for note in planner.filters if note not in found)


class _Planner:
    """Jobs of one region."""

    def __init__(self, region: Region) -> None:
        self._recipe = region.recipe
        self._inputs = region
        self._template = region.entries(region.template)
        self._depths = region.depths
        self.names = tuple(self._template)
        self.aliases = dict(region.aliases(region.template))
        self.notes: list[str] = []
        self.filters: dict[str, bool] = {}
        self._without: frozenset[str] = frozenset()

    def select(self) -> list[Segment]:
        """Decide about every tensor; returns the segments of those that are merged."""
        recipe, inputs = self._recipe, self._inputs
        others = [index for index in (inputs.base, *inputs.models) if index is not None and index != inputs.template]
        self._selection = selection = select(
            self._template,
            {inputs.label(index): inputs.without_foreign_aliases(index, self._template) for index in others},
            label=inputs.label(inputs.template),
            exclude=recipe.exclude,
            aliases=self.aliases,
        )
        self._note_filters(selection.merged)
        self.notes += [*notes.repeated(inputs), *notes.tied_heads(inputs, selection.merged)]
        self._settings = {
            name: recipe.settings(name, self._depths[name], inputs.input_names(name)) for name in selection.merged
        }
        self._untouched = self._frozen(selection, self._settings)
        merged = [name for name in selection.merged if name not in self._untouched]
        check_split(recipe.split, merged)
        self._parts = {name: segments(name, self._template[name].shape, recipe.split) for name in merged}
        return [part for parts in self._parts.values() for part in parts]

    def jobs(self, places: Mapping[str, Place]) -> Iterator[Job]:
        """One per segment that is merged, one per tensor that is copied, one per set of tensors that must agree.

        Args:
            places: of all segments of all regions, by name.
        """
        selection = self._selection
        for name in (*selection.excluded, *selection.copied, *self._untouched):
            yield self._copy(name)
        for name in selection.copied:
            yield from self._agreeing(name)
        for name in self._untouched:
            yield self._untrained(selection, name)
        for name, parts in self._parts.items():
            yield from self._merge(selection, name, parts, self._settings[name], places)
        yield from self._ties(selection)

    def _note_filters(self, names: Sequence[str]) -> None:
        """Whether the filters of the recipe find a tensor, by what would be said if they find none."""
        recipe = self._recipe
        known = {*names, *(stored for name in names for stored in self._inputs.input_names(name))}
        for table in (recipe.parameters, *(spec.parameters for spec in recipe.models)):
            for key, setting in table.items():
                for pattern in filters(setting):
                    note = f"{key.rstrip('_')}: the filter {pattern!r} matches no merged tensor"
                    self.filters[note] = any(pattern in name for name in known)

    def _frozen(self, selection: Selection, settings: Mapping[str, Settings]) -> tuple[str, ...]:
        """Entries for which no file has an importance, where the method cannot do without."""
        inputs, method = self._inputs, self._recipe.method
        wanted = [index for index in inputs.importances if index is not None]
        needing = tuple(name for name in selection.merged if method.roles(settings[name]).importance)
        if not wanted or not needing:
            return ()
        tables = {inputs.label(index): inputs.without_foreign_aliases(index, self._template) for index in wanted}
        narrowed = replace(selection, merged=needing)
        absent = select_importances(narrowed, self._template, tables, exclude=self._recipe.exclude, data=method.data)
        if method.data.without is None:
            return absent
        self._without = frozenset(absent)
        lacking = [name for name in absent if method.data.shape(self._template[name].shape) is not None]
        if lacking:
            more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
            self.notes.append(f"no {method.data.name} for {lacking[0]!r}{more}: {method.data.without}")
        return ()

    def _copy(self, name: str) -> Job:
        """The template's own tensor: its bytes, or its values in the recipe's dtype."""
        entry = self._template[name]
        dtype = self._out_dtype(entry)
        action = "copy" if dtype == entry.dtype else "convert"
        stop = entry.nbytes if action == "copy" else entry.size
        operand = self._operand("base", self._inputs.template, name)
        return Job(name, name, entry.shape, action, 0, stop, dtype, (operand,))

    def _agreeing(self, name: str) -> Iterator[Job]:
        """Integers and bools of the models are held against those that are kept; a difference is worth a warning."""
        inputs = self._inputs
        kept = self._template[name]
        if kept.dtype not in COPIED_DTYPES:
            return
        said = f"{{}}: {name!r} differs from {inputs.label(inputs.template)}, whose value is kept"
        rivals = []
        for index in dict.fromkeys(inputs.models):
            entry = inputs.entries(index).get(name)
            if entry is None or index == inputs.template:
                continue
            if (entry.dtype, entry.shape) == (kept.dtype, kept.shape):
                rivals.append(self._operand("model", index, name))
            else:
                self.notes.append(said.format(inputs.label(index)))
        if rivals:
            yield self._comparison(name, kept, (self._operand("base", inputs.template, name), *rivals), said, False)

    def _untrained(self, selection: Selection, name: str) -> Job:
        """An entry without importance must be the same in every model."""
        inputs = self._inputs
        read = dict.fromkeys(index for index in (inputs.base, *inputs.models) if index is not None)
        operands = tuple(self._stored("model", index, selection, name) for index in read)
        said = (
            f"no importance for {name!r}, which {{}} has trained; compute its importance, or exclude it to copy it "
            f"from {inputs.label(inputs.template)}"
        )
        return self._comparison(name, self._template[name], operands, said, True)

    def _ties(self, selection: Selection) -> Iterator[Job]:
        """What holds two values where the template ties them must hold them equal: one of them is lost."""
        inputs = self._inputs
        label = inputs.label(inputs.template)
        for alias, first in selection.aliases.items():
            said = f"{{}}: {alias!r} and {first!r} differ, but {label} ties them"
            if alias in inputs.tied_heads(inputs.template):
                said += f"; `exclude: [{alias}]` leaves that head out; to merge it, give {label} a head of its own"
            for index in dict.fromkeys((inputs.base, *inputs.models, *inputs.importances)):
                if index is None or first not in selection.merged:
                    continue
                entries = inputs.stored(index)
                if alias in entries and first in entries:
                    pair = (self._operand("model", index, first), self._operand("model", index, alias))
                    yield self._comparison(alias, entries[first], pair, said, True)

    def _comparison(
        self, name: str, entry: TensorEntry, operands: tuple[Operand, ...], differing: str, refuse: bool
    ) -> Job:
        return Job(
            name, name, entry.shape, "compare", 0, entry.size, entry.dtype, operands, differing=differing, refuse=refuse
        )

    def _merge(
        self,
        selection: Selection,
        name: str,
        parts: Sequence[Segment],
        settings: Settings,
        places: Mapping[str, Place],
    ) -> Iterator[Job]:
        """The segments of a merged tensor."""
        inputs, method = self._inputs, self._recipe.method
        entry = self._template[name]
        roles = method.roles(settings)
        operands: list[Operand] = []
        if roles.base and inputs.base is not None:
            operands.append(self._stored("base", inputs.base, selection, name))
        if roles.target and inputs.target is not None:
            operands.append(self._stored("target", inputs.target, selection, name))
        operands += [self._stored("model", index, selection, name) for index in inputs.models]
        unread = tuple(i for i in range(len(inputs.models)) if roles.models is not None and i not in roles.models)
        summaries: list[Summary | None] = []
        if roles.importance and name not in self._without:
            for index in inputs.importances:
                assert index is not None  # the recipe has refused settings that need one
                operand = self._shaped(self._stored("importance", index, selection, name), entry)
                self._check_measure(index, settings)
                operands.append(operand)
                summaries.append(inputs.summary(index, operand.name))
        for segment in parts:
            place = places[segment.name]
            yield Job(
                segment.name,
                name,
                entry.shape,
                "merge",
                segment.start,
                segment.stop,
                self._out_dtype(entry),
                tuple(operands),
                settings=settings,
                summaries=tuple(summaries) if segment.rows is None else (),
                tasks=inputs.tasks,
                block=place.block,
                model=place.model,
                granule=method.granule(place),
                masks=method.masks(settings, len(inputs.models)),
                unread=unread,
            )

    def _check_measure(self, index: int, settings: Settings) -> None:
        """A file that says what it holds; ``lp_amp`` multiplies a stored lp importance by θ²: not one that holds θ²."""
        metadata, data = self._inputs.metadata(index), self._recipe.method.data
        if metadata is not None and metadata.measure not in data.measures:
            raise InputError(
                f"{self._inputs.label(index)}: holds {metadata.measure}, and {self._recipe.method_name} takes "
                f"{' or '.join(data.measures)}"
            )
        if settings.shared.get("measure") == "lp_amp" and metadata is not None and metadata.measure != "lp":
            raise InputError(
                f"{self._inputs.label(index)}: holds {metadata.measure}, and measure: lp_amp multiplies an lp "
                "importance by θ²; say measure: lp to take the file as it is"
            )

    def _shaped(self, operand: Operand, entry: TensorEntry) -> Operand:
        """An operand of other data than an importance, with the shape that goes by its parameter's."""
        data = self._recipe.method.data
        return operand if data.elementwise else replace(operand, shape=data.shape(entry.shape))

    def _out_dtype(self, entry: TensorEntry) -> str:
        wanted = self._recipe.dtype
        return wanted if wanted is not None and entry.dtype in MERGED_DTYPES else entry.natural or entry.dtype

    def _operand(self, role: str, index: int, name: str) -> Operand:
        return self._inputs.operand(role, index, name)

    def _stored(self, role: str, index: int, selection: Selection, name: str) -> Operand:
        stored = selection.stored_name(self._inputs.entries(index), name)
        assert stored is not None  # select has refused models that lack it
        return self._operand(role, index, stored)
