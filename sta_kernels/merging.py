"""Merging and forgetting on state dicts in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from sta_kernels import methods
from sta_kernels.errors import InputError, warn_caller
from sta_kernels.kernels import get_backend
from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.methods.base import Method, Operands, Settings
from sta_kernels.methods.run import merge_segment
from sta_kernels.methods.selection import (
    COPIED_DTYPES,
    Segment,
    Selection,
    check_split,
    segments,
    select,
    select_importances,
)
from sta_kernels.methods.statistics import Statistic
from sta_kernels.state_dict import StateDict, position

Tensors = Mapping[str, torch.Tensor]
_OUT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def merge(
    base: Tensors | None,
    finetuned: Sequence[Tensors],
    *,
    method: str = "sta",
    importances: Sequence[Tensors] | None = None,
    target: Tensors | None = None,
    exclude: Sequence[str] = (),
    split: Mapping[str, int] | None = None,
    out_dtype: torch.dtype | None = None,
    threads: int | None = None,
    counts: dict[str, list[int]] | None = None,
    **parameters: Any,
) -> dict[str, torch.Tensor]:
    """Merge fine-tuned models that share one base: ``θ = θ0 + Σ_i w_i·M_i ⊙ τ_i``, ``τ_i = θ_i − θ0``.

    Floating entries are merged, each by itself. Integer and bool entries, running statistics of batch normalisation,
    frozen entries and what ``exclude`` matches are copied from the base. Entries that the base ties are merged once
    and tied in the result. A wrapping ``{"state_dict": …}`` is taken off; so is the prefix of a wrapper module
    (``module.``, ``_orig_mod.``), which the result has where the base has it.

    Args:
        base: state dict of the common base; CPU tensors. May be None for ``linear``, which does not read it: then the
            first model stands in its place.
        finetuned: one state dict per model: float32, bfloat16, float16 or float64, in the base's shapes.
        method: ``sta``, ``sta_forget``, ``linear``, ``task_arithmetic``; :func:`sta_kernels.methods.names` lists all.
        importances: one per model, the importance of each trainable entry, as
            :class:`sta_kernels.TaylorImportance` computes it. An entry without importance is frozen: every model must
            equal the base there. Not read, and not needed, by ``measure="amp"`` and by methods without importance.
        target: ``sta_forget`` only: the model to subtract from, which the result takes names and copies from; None is
            the base. See :func:`forget`.
        exclude: glob patterns over names, or a single one; the entries that match are copied.
        split: parts into which entries are cut along their first dimension, each normalised and ranked by itself, by
            glob pattern: ``{"*.in_proj_weight": 3}``.
        out_dtype: of all floating entries of the result; None keeps the base's. Arithmetic is in float32.
        threads: upper bound; None is :func:`torch.get_num_threads`.
        counts: receives, per entry or part, the kept entries per model and, last, the positions that kept none (for
            ``sta_forget``, the entries subtracted).
        **parameters: of the method. ``sta``: p=0.7 or keep, measure="lp", normalise="minmax", ties="drop", weight=1
            (or one per model), lambda_=1. ``sta_forget``: p, measure, weight, lambda_. ``linear``: weight,
            normalize=True. ``task_arithmetic``: weight, lambda_, normalize=False.

    Returns:
        A new state dict with the names and the order of the base. It shares no memory with the arguments, which are
        left as they are.

    Raises:
        InputError: an unknown method or parameter; an entry that is missing, unknown, of another shape, or of a dtype
            or on a device that no kernel reads; a trained entry without importance; a NaN or an infinity; a negative
            importance. The message names model and entry.

    Warns:
        UserWarning: several models were given and none was added anywhere; models disagree on an entry that is copied.

    Numerics:
        Every operand is converted to float32, the sum runs over the models in order, and the result is rounded once
        (nearest even). The same bits on every machine and for every number of threads.
    """
    chosen = methods.get(method)
    if isinstance(finetuned, Mapping):
        raise InputError("finetuned: expected a list of state dicts, got a single one")
    if not isinstance(finetuned, Iterable):
        raise InputError(f"finetuned: expected a list of state dicts, got a {type(finetuned).__name__}")
    finetuned = list(finetuned)
    settings = methods.resolve(chosen, len(finetuned), **parameters)
    inputs = _inputs(chosen, settings, base, finetuned, importances, target)
    if out_dtype is not None and out_dtype not in _OUT_DTYPES:
        raise InputError(f"out_dtype: expected {', '.join(map(str, _OUT_DTYPES))}, got {out_dtype!r}")
    if threads is not None and threads < 1:
        raise InputError(f"threads: expected 1 or more, got {threads}")
    threads = threads or torch.get_num_threads()
    selection = _select(inputs, [exclude] if isinstance(exclude, str) else exclude)
    split = split or {}
    check_split(split, selection.merged)
    backend = get_backend()
    template = inputs.template
    results = {name: _copy(template.tensors[name], out_dtype) for name in (*selection.copied, *selection.excluded)}
    for name in (*selection.copied, *selection.excluded):
        _check_conversion(name, template.tensors[name], results[name])
    kept = unrouted = 0
    for name in selection.merged:
        inputs.check_finite(selection, name, backend, threads)
        inputs.check_importances(selection, name)
        whole = template.tensors[name]
        results[name] = torch.empty(whole.shape, dtype=out_dtype or whole.dtype)
        check = partial(inputs.check_result, name)
        for segment in segments(name, tuple(whole.shape), split):
            operands = inputs.operands(selection, segment)
            out = _buffer(results[name], segment)
            counted = merge_segment(chosen, operands, settings, out, backend=backend, threads=threads, check=check)
            if "unrouted" in chosen.counters(len(finetuned)):
                kept, unrouted = kept + int(counted[:-1].sum()), unrouted + int(counted[-1])
            if counts is not None and counted.size:
                counts[template.prefix + segment.name] = counted.tolist()
        _check_overflow(name, results[name], backend, threads)
    if unrouted and not kept and len(finetuned) > 1:
        warn_caller("nothing was added: the result is the base; do two models share an importance?")
    return {template.prefix + name: results[selection.aliases.get(name, name)] for name in template.tensors}


def forget(
    target: Tensors | None,
    base: Tensors,
    finetuned: Tensors,
    importance: Tensors | None = None,
    *,
    p: float = 0.7,
    measure: str = "lp",
    weight: float = 1.0,
    lambda_: float = 1.0,
    exclude: Sequence[str] = (),
    split: Mapping[str, int] | None = None,
    out_dtype: torch.dtype | None = None,
    threads: int | None = None,
    counts: dict[str, list[int]] | None = None,
) -> dict[str, torch.Tensor]:
    """Subtract from a model what mattered most to one task: ``θ = θ_target − λ·w·M ⊙ τ``, ``M = [I > T]`` (eq. 18–20).

    T is the p-quantile of the task's importance over each entry, so that about ``1 − p`` of it is subtracted.

    Args:
        target: state dict of any model on that base, a merged one for instance; None is the base. The result takes
            names, dtypes and copied entries from it.
        base: state dict from which the task's model was fine-tuned.
        finetuned: state dict of the task's model; ``τ`` is its difference from the base.
        importance: importance of its trainable entries; None with ``measure="amp"``.
        p: quantile in [0, 1]; 1 subtracts nothing, 0 everything but the minimum.
        measure: ``lp``: the importance as given; ``amp``: θ²; ``lp_amp``: the importance times θ².
        weight: factor of the task.
        lambda_: another factor, as in :func:`merge`.
        exclude: see :func:`merge`.
        split: see :func:`merge`.
        out_dtype: see :func:`merge`.
        threads: see :func:`merge`.
        counts: receives, per entry or part, the number of entries subtracted.

    Returns:
        A new state dict with the names and the order of the target.

    Raises:
        InputError: see :func:`merge`.
    """
    return merge(
        base,
        [finetuned],
        method="sta_forget",
        importances=None if importance is None else [importance],
        target=target,
        exclude=exclude,
        split=split,
        out_dtype=out_dtype,
        threads=threads,
        counts=counts,
        p=p,
        measure=measure,
        weight=weight,
        lambda_=lambda_,
    )


@dataclass(frozen=True)
class _Inputs:
    """State dicts by role: only those that the method reads, besides the template."""

    template: StateDict
    models: tuple[StateDict, ...]
    base: StateDict | None
    importances: tuple[StateDict, ...]
    target: StateDict | None

    def check_finite(self, selection: Selection, name: str, backend: Backend, threads: int) -> None:
        """Raise InputError where an operand holds a NaN or an infinity."""
        read = [state for state in (self.base, *self.models, self.target, *self.importances) if state is not None]
        tensors = [_stored(state, selection, name) for state in read]
        found = backend.first_nonfinite([Buffer.from_torch(tensor) for tensor in tensors], threads=threads)
        if found is None:
            return
        which, flat_index = found
        index = position(tuple(tensors[which].shape), flat_index)
        value = tensors[which][tuple(index)].item()
        raise InputError(
            f"{read[which].label}: {name!r} is {value} at {index}; repair the tensor, or exclude it to copy it"
        )

    def check_importances(self, selection: Selection, name: str) -> None:
        """Raise InputError where an importance is below zero: then it is most often a model."""
        for state in self.importances:
            tensor = _stored(state, selection, name)
            if tensor.numel() and (least := tensor.min()) < 0:
                raise InputError(
                    f"{state.label}: {name!r} goes down to {least.item():g}, but an importance is never negative; is "
                    "this a model?"
                )

    def check_result(self, name: str, statistic: Statistic, result: Any) -> None:
        """Raise InputError where finite operands make an importance that is not."""
        if not np.isfinite(result).all():
            raise InputError(
                f"{self.models[statistic.task].label}: {name!r}: its importance ({statistic.measure}) overflows "
                "float32; exclude the entry, or choose another measure"
            )

    def operands(self, selection: Selection, segment: Segment) -> Operands:
        """The buffers of one segment."""

        def view(state: StateDict) -> Buffer:
            return _buffer(_stored(state, selection, segment.tensor), segment)

        return Operands(
            models=tuple(map(view, self.models)),
            base=None if self.base is None else view(self.base),
            importances=tuple(map(view, self.importances)),
            target=None if self.target is None else view(self.target),
        )


def _inputs(
    method: Method,
    settings: Settings,
    base: Tensors | None,
    finetuned: Sequence[Tensors],
    importances: Sequence[Tensors] | None,
    target: Tensors | None,
) -> _Inputs:
    roles = method.roles(settings)
    if base is None and roles.base:
        raise InputError(f"{method.name} needs the base")
    if target is not None and not roles.target:
        raise InputError(f"{method.name} takes no target")
    base_state = None if base is None else StateDict("base", base)
    target_state = None if target is None else StateDict("target", target)
    models = tuple(StateDict(f"finetuned[{i}]", given) for i, given in enumerate(finetuned))
    if not roles.importance:
        importances = ()
    elif importances is None:
        raise InputError(f'{method.name}: importances: none given (or use measure="amp")')
    elif isinstance(importances, Mapping):
        raise InputError(f"{method.name}: importances: expected a list of state dicts, got a single one")
    elif len(importances) != len(models):
        raise InputError(f"{method.name}: importances: {len(importances)} given for {len(models)} models")
    return _Inputs(
        template=target_state or base_state or models[0],
        models=models,
        base=base_state if roles.base else None,
        importances=tuple(StateDict(f"importances[{i}]", given) for i, given in enumerate(importances)),
        target=target_state,
    )


def _select(inputs: _Inputs, exclude: Sequence[str]) -> Selection:
    """What is merged, once names, shapes, ties and importances have been checked."""
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
    for state in others:
        _check_ties(state, selection, template)
    _warn_of_integers(inputs, selection)
    if not inputs.importances:
        return selection
    files = {state.label: state.without_foreign_aliases(entries) for state in inputs.importances}
    for state in inputs.importances:
        _check_ties(state, selection, template)
    frozen = select_importances(selection, entries, files, exclude=exclude)
    for name in frozen:
        _check_frozen(inputs, selection, name)
    merged = tuple(name for name in selection.merged if name not in frozen)
    return replace(selection, merged=merged, copied=(*selection.copied, *frozen))


def _check_overflow(name: str, result: torch.Tensor, backend: Backend, threads: int) -> None:
    """float16 alone has so narrow a range that finite operands overflow it in practice."""
    if result.dtype != torch.float16:
        return
    found = backend.first_nonfinite([Buffer.from_torch(result)], threads=threads)
    if found is not None:
        raise _overflow(name, result, found[1])


def _check_conversion(name: str, source: torch.Tensor, result: torch.Tensor) -> None:
    """What is copied may hold infinities, but none that float16 makes of a finite value."""
    if result.dtype == torch.float16 != source.dtype:
        overflows = source.isfinite() & ~result.isfinite()
        if overflows.any():
            raise _overflow(name, result, int(overflows.flatten().int().argmax()))


def _overflow(name: str, result: torch.Tensor, flat_index: int) -> InputError:
    index = position(tuple(result.shape), flat_index)
    return InputError(f"{name!r} overflows float16 at {index}; write bfloat16 or float32 instead")


def _check_ties(state: StateDict, selection: Selection, template: StateDict) -> None:
    """Refuse a model or an importance that holds two values where the template has one: one of them would be lost."""
    for alias, first in selection.aliases.items():
        if first in selection.merged and alias in state.tensors and first in state.tensors:
            one, other = state.tensors[first], state.tensors[alias]
            if one.data_ptr() != other.data_ptr() and not torch.equal(one, other):
                raise InputError(
                    f"{state.label}: {alias!r} and {first!r} differ, but {template.label} ties them; clone one of them "
                    f"in {template.label} to merge them apart"
                )


def _check_frozen(inputs: _Inputs, selection: Selection, name: str) -> None:
    """Refuse an entry without importance that some model has trained."""
    reference, *others = [state for state in (inputs.base, *inputs.models) if state is not None]
    values = _stored(reference, selection, name)
    for state in others:
        tensor = _stored(state, selection, name)
        wider = torch.promote_types(tensor.dtype, values.dtype)
        if not torch.equal(tensor.to(wider), values.to(wider)):
            raise InputError(
                f"no importance for {name!r}, which {state.label} has trained; compute it, or exclude the entry "
                f"to copy it from {inputs.template.label}"
            )


def _warn_of_integers(inputs: _Inputs, selection: Selection) -> None:
    """Say so where models disagree on entries that cannot be merged."""
    template = inputs.template
    entries = template.entries()
    integers = [name for name in selection.copied if entries[name].dtype in COPIED_DTYPES]
    for state in inputs.models:
        differing = [
            name
            for name in integers
            if name in state.tensors and not torch.equal(state.tensors[name], template.tensors[name])
        ]
        if differing:
            warn_caller(
                f"{state.label}: {', '.join(map(repr, differing))} differs from {template.label}, whose value is kept"
            )


def _stored(state: StateDict, selection: Selection, name: str) -> torch.Tensor:
    stored = selection.stored_name(state.tensors, name)
    assert stored is not None
    return state.tensors[stored]


def _buffer(tensor: torch.Tensor, segment: Segment) -> Buffer:
    return Buffer.from_torch(tensor if segment.rows is None else tensor[slice(*segment.rows)])


def _copy(tensor: torch.Tensor, out_dtype: torch.dtype | None) -> torch.Tensor:
    """A contiguous copy; of the output dtype where the tensor has a dtype that kernels read."""
    dtype = out_dtype if out_dtype is not None and tensor.dtype in _OUT_DTYPES else tensor.dtype
    return tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
