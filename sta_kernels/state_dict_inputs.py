"""What a merge of state dicts reads: by role, checked against each other, in few waits for a device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from sta_kernels.errors import InputError, warn_caller
from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.methods.base import Method, ModelData, Operands, Settings
from sta_kernels.methods.selection import COPIED_DTYPES, Segment, Selection, select, select_importances
from sta_kernels.methods.statistics import Range, Statistic
from sta_kernels.methods.subjects import Importance, overflow_advice
from sta_kernels.state_dict import StateDict, Tensors, common_device, equal, position


@dataclass(frozen=True)
class Inputs:
    """State dicts by role: only those that the method reads, besides the template."""

    template: StateDict
    models: tuple[StateDict, ...]
    base: StateDict | None
    importances: tuple[StateDict, ...]
    target: StateDict | None

    @property
    def device(self) -> torch.device:
        """Where all tensors are.

        Raises:
            InputError: they are on several devices.
        """
        states = (self.template, self.base, *self.models, self.target, *self.importances)
        return common_device([state for state in states if state is not None])

    def check_finite(self, selection: Selection, names: Sequence[str], backend: Backend, threads: int) -> None:
        """Raise InputError where an operand of some entries holds a NaN or an infinity."""
        states = [state for state in (self.base, *self.models, self.target, *self.importances) if state is not None]
        read = list(_tensors(states, selection, names))
        found = backend.first_nonfinite([Buffer.from_torch(tensor) for *_, tensor in read], threads=threads)
        if found is None:
            return
        state, name, tensor = read[found[0]]
        index = position(tuple(tensor.shape), found[1])
        raise InputError(
            f"{state.label}: {name!r} is {tensor[tuple(index)].item()} at {index}; repair the tensor, or exclude it to "
            "copy it"
        )

    def check_importances(self, selection: Selection, names: Sequence[str], backend: Backend, threads: int) -> None:
        """Raise InputError where an importance of some entries is below zero: then it is most often a model."""
        if not self.importances:
            return
        read = list(_tensors(self.importances, selection, names))
        sources = [ImportanceSource("lp", Buffer.from_torch(tensor)) for *_, tensor in read]
        ends = np.tile(np.array((np.inf, -np.inf), np.float32), (len(read), 1))
        backend.ranges(sources, ends, None, threads=threads)
        for (state, name, _), (least, _) in zip(read, ends, strict=True):
            _check_sign(state, name, float(least))

    def check_result(self, name: str, statistic: Statistic, result: Any) -> None:
        """Raise InputError where finite operands make an importance that is not, or where a range goes below zero."""
        subject = statistic.subject
        if not np.isfinite(result).all():
            raise InputError(f"{self.models[subject.task].label}: {name!r}: {overflow_advice(subject)}")
        if shows_sign(statistic):
            _check_sign(self.importances[subject.task], name, result[0])

    def operands(self, selection: Selection, segment: Segment, data: ModelData) -> Operands:
        """The buffers of one segment."""

        def view(state: StateDict) -> Buffer:
            return buffer_of(_stored(state, selection, segment.tensor), segment)

        held = [_find(state, selection, segment.tensor) for state in self.importances]
        found = [tensor for tensor in held if tensor is not None]

        return Operands(
            models=tuple(map(view, self.models)),
            base=None if self.base is None else view(self.base),
            importances=tuple(
                buffer_of(each, segment) if data.elementwise else Buffer.from_torch(each) for each in found
            ),
            target=None if self.target is None else view(self.target),
            offset=segment.start,
        )


def shows_sign(statistic: Statistic) -> bool:
    """Whether a statistic tells the least value of a stored importance."""
    subject = statistic.subject
    return isinstance(statistic, Range) and isinstance(subject, Importance) and subject.measure == "lp"


def buffer_of(tensor: torch.Tensor, segment: Segment) -> Buffer:
    """The part of a tensor that is a segment."""
    return Buffer.from_torch(tensor if segment.rows is None else tensor[slice(*segment.rows)])


def gather(
    method: Method,
    settings: Settings,
    base: Tensors | None,
    finetuned: Sequence[Tensors],
    importances: Sequence[Tensors] | None,
    target: Tensors | None,
) -> Inputs:
    """The state dicts that a method reads.

    Raises:
        InputError: one that is missing, is not taken, or is no state dict.
    """
    roles = method.roles(settings)
    if base is None and roles.base and not roles.base_optional:
        raise InputError(f"{method.name} needs the base")
    if target is not None and not roles.target:
        raise InputError(f"{method.name} takes no target")
    base_state = None if base is None else StateDict("base", base)
    target_state = None if target is None else StateDict("target", target)
    models = tuple(StateDict(f"finetuned[{i}]", given) for i, given in enumerate(finetuned))
    if importances and not method.usual_roles.importance:
        raise InputError(f"{method.name} takes no importances")
    if not roles.importance:
        importances = ()
    elif importances is None:
        found = method.data.alternative(settings)
        other = "" if found is None else f"; or use {found[0]}={found[1]!r}"
        raise InputError(f"{method.name}: importances: none given ({method.data.written_by} makes them{other})")
    elif isinstance(importances, Mapping):
        raise InputError(f"{method.name}: importances: expected a list of state dicts, got a single one")
    elif len(importances) != len(models):
        raise InputError(f"{method.name}: importances: {len(importances)} given for {len(models)} models")
    return Inputs(
        template=target_state or base_state or models[0],
        models=models,
        base=base_state if roles.base else None,
        importances=tuple(StateDict(f"importances[{i}]", given) for i, given in enumerate(importances)),
        target=target_state,
    )


def choose_entries(inputs: Inputs, exclude: Sequence[str], data: ModelData) -> Selection:
    """What is merged, once names, shapes, ties and importances have been checked.

    Raises:
        InputError: they do not fit together.
    """
    template = inputs.template
    entries = template.entries()
    others = [state for state in (inputs.base, *inputs.models) if state is not None and state is not template]
    selection = select(
        entries,
        {state.label: state.without_foreign_aliases(entries) for state in others},
        label=template.label,
        exclude=exclude,
        aliases=template.aliases(),
    )
    _check_ties(others, selection, template)
    _warn_of_integers(inputs, selection)
    if not inputs.importances:
        return selection
    files = {state.label: state.without_foreign_aliases(entries) for state in inputs.importances}
    _check_ties(inputs.importances, selection, template)
    frozen = select_importances(selection, entries, files, exclude=exclude, data=data)
    if data.without is not None:
        return selection
    _check_frozen(inputs, selection, frozen)
    merged = tuple(name for name in selection.merged if name not in frozen)
    return replace(selection, merged=merged, copied=(*selection.copied, *frozen))


def _check_sign(state: StateDict, name: str, least: float) -> None:
    if least < 0:
        raise InputError(
            f"{state.label}: {name!r} goes down to {least:g}, but an importance is never negative; is this a model?"
        )


def _check_ties(states: Sequence[StateDict], selection: Selection, template: StateDict) -> None:
    """Refuse a model or an importance that holds two values where the template has one: one of them would be lost."""
    tied = [
        (state, alias, first)
        for state in states
        for alias, first in selection.aliases.items()
        if first in selection.merged and alias in state.tensors and first in state.tensors
    ]
    same = equal([(state.tensors[first], state.tensors[alias]) for state, alias, first in tied])
    for (state, alias, first), agree in zip(tied, same, strict=True):
        if not agree:
            raise InputError(
                f"{state.label}: {alias!r} and {first!r} differ, but {template.label} ties them; clone one of them "
                f"in {template.label} to merge them apart"
            )


def _check_frozen(inputs: Inputs, selection: Selection, names: Sequence[str]) -> None:
    """Refuse entries without importance that some model has trained."""
    reference, *others = [state for state in (inputs.base, *inputs.models) if state is not None]
    read = list(_tensors(others, selection, names))
    same = equal([(tensor, _stored(reference, selection, name)) for _, name, tensor in read])
    for (state, name, _), agree in zip(read, same, strict=True):
        if not agree:
            raise InputError(
                f"no importance for {name!r}, which {state.label} has trained; compute it, or exclude the entry "
                f"to copy it from {inputs.template.label}"
            )


def _warn_of_integers(inputs: Inputs, selection: Selection) -> None:
    """Say so where models disagree on entries that cannot be merged."""
    template = inputs.template
    entries = template.entries()
    integers = [name for name in selection.copied if entries[name].dtype in COPIED_DTYPES]
    held = [(state, name) for state in inputs.models for name in integers if name in state.tensors]
    same = equal([(state.tensors[name], template.tensors[name]) for state, name in held])
    differing: dict[str, list[str]] = {}
    for (state, name), agree in zip(held, same, strict=True):
        if not agree:
            differing.setdefault(state.label, []).append(repr(name))
    for label, names in differing.items():
        warn_caller(f"{label}: {', '.join(names)} differs from {template.label}, whose value is kept")


def _tensors(
    states: Sequence[StateDict], selection: Selection, names: Sequence[str]
) -> Iterator[tuple[StateDict, str, torch.Tensor]]:
    for name in names:
        for state in states:
            tensor = _find(state, selection, name)
            if tensor is not None:
                yield state, name, tensor


def _find(state: StateDict, selection: Selection, name: str) -> torch.Tensor | None:
    """An entry's tensor; None of an importance that the method does without."""
    stored = selection.stored_name(state.tensors, name)
    return None if stored is None else state.tensors[stored]


def _stored(state: StateDict, selection: Selection, name: str) -> torch.Tensor:
    tensor = _find(state, selection, name)
    assert tensor is not None
    return tensor
