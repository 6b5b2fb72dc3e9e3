"""Merging and forgetting on state dicts in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from sta_kernels import methods
from sta_kernels.errors import InputError, warn_caller
from sta_kernels.kernels import get_backend
from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer, room_on
from sta_kernels.methods.base import Method, Place, Settings
from sta_kernels.methods.groups import Group, SharedRounds, group, places
from sta_kernels.methods.run import Piece, merge_pieces
from sta_kernels.methods.selection import Segment, Selection, check_split, segments
from sta_kernels.methods.statistics import Range, Statistic, update_together
from sta_kernels.state_dict import Tensors, position
from sta_kernels.state_dict_inputs import Inputs, buffer_of, choose_entries, gather, shows_sign

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
        base: state dict of the common base, on a CPU or a GPU, with all others on the same. May be None for methods
            that do not need it (``linear``, ``fisher``, ``regmean``, ``karcher``, ``nuslerp``, ``multislerp``,
            ``passthrough``): then the first model gives names and copied entries.
        finetuned: one state dict per model: float32, bfloat16, float16 or float64, in the base's shapes.
        method: name of any method; :func:`sta_kernels.methods.names` lists them.
        importances: one per model, the importance of each trainable entry, as
            :class:`sta_kernels.TaylorImportance` computes it. An entry without importance is frozen: every model must
            equal the base there. Not read, and not needed, by ``measure="amp"``; refused by methods without importance.
        target: ``sta_forget`` only: the model to subtract from, which the result takes names and copies from; None is
            the base. See :func:`forget`.
        exclude: glob patterns over names, or a single one; the entries that match are copied.
        split: parts into which entries are cut along their first dimension, each normalised and ranked by itself, by
            glob pattern: ``{"*.in_proj_weight": 3}``.
        out_dtype: of all floating entries of the result; None keeps the base's. Arithmetic is in float32.
        threads: upper bound; None is :func:`torch.get_num_threads`.
        counts: receives, per entry or part, the kept entries per model and, last, the positions that kept none (for
            ``sta_forget``, the entries subtracted).
        **parameters: of the method, ``weight`` and some others one number or one per model. ``docs/methods.md`` and
            ``sta_kernels.methods.get(method).parameters`` list them with their defaults.

    Returns:
        A new state dict with the names and the order of the base, on its device. It shares no memory with the
        arguments, which are left as they are.

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
    inputs = gather(chosen, settings, base, finetuned, importances, target)
    if out_dtype is not None and out_dtype not in _OUT_DTYPES:
        raise InputError(f"out_dtype: expected {', '.join(map(str, _OUT_DTYPES))}, got {out_dtype!r}")
    if threads is not None and threads < 1:
        raise InputError(f"threads: expected 1 or more, got {threads}")
    threads = threads or torch.get_num_threads()
    device = inputs.device
    backend = get_backend(device=str(device))
    selection = choose_entries(inputs, [exclude] if isinstance(exclude, str) else exclude, chosen.data)
    split = split or {}
    check_split(split, selection.merged)
    template = inputs.template
    results = {name: _copy(template.tensors[name], out_dtype) for name in (*selection.copied, *selection.excluded)}
    _check_conversions(template.tensors, results, backend, threads)
    counted: dict[str, list[int]] = {}
    merging = _Merging(inputs, selection, chosen, settings, split, backend, threads)
    # On a CPU, an entry's checks bring it into the cache for its merge; on a GPU, each of its calls would be a launch.
    # Masks of a whole model would take more memory than the model.
    together = backend.batched and not chosen.masks(settings, len(finetuned))
    for names in [selection.merged] if together else [(name,) for name in selection.merged]:
        wholes = [template.tensors[name] for name in names]
        results.update((name, _empty(whole, out_dtype)) for name, whole in zip(names, wholes, strict=True))
        parts = [
            segment
            for name, whole in zip(names, wholes, strict=True)
            for segment in segments(name, tuple(whole.shape), split)
        ]
        counted.update(merging.merge(names, parts, results))
    if counts is not None:
        counts.update((template.prefix + name, counters) for name, counters in counted.items() if counters)
    if "unrouted" in chosen.counters(len(finetuned)) and len(finetuned) > 1:
        kept, unrouted = (sum(sum(each[part]) for each in counted.values()) for part in (slice(-1), slice(-1, None)))
        if unrouted and not kept:
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


class _Merging:
    """Entries on their way from checked operands to merged results."""

    def __init__(
        self,
        inputs: Inputs,
        selection: Selection,
        method: Method,
        settings: Settings,
        split: Mapping[str, int],
        backend: Backend,
        threads: int,
    ) -> None:
        self._inputs = inputs
        self._selection = selection
        self._method = method
        self._settings = settings
        self._backend = backend
        self._threads = threads
        shapes = {name: tuple(inputs.template.tensors[name].shape) for name in selection.merged}
        parts = [segment for name, shape in shapes.items() for segment in segments(name, shape, split)]
        self._places = places(parts)
        for place in self._places.values():
            method.check_place(settings, place)
        method.check_names(settings, inputs.template.tensors.keys() - selection.aliases.keys())
        self._earlier = self._shared_results(parts)

    def merge(
        self, names: Sequence[str], parts: Sequence[Segment], results: Mapping[str, torch.Tensor]
    ) -> dict[str, list[int]]:
        """Merge some entries into their results, all checks made; returns the counters of each part."""
        inputs, selection, backend, threads = self._inputs, self._selection, self._backend, self._threads
        if not self._earlier:
            self._check_operands(names)
        pieces = [
            Piece(
                inputs.operands(selection, part, self._method.data),
                buffer_of(results[part.tensor], part),
                self._places[part.name],
                earlier=self._earlier.get(part.name, ()),
            )
            for part in parts
        ]

        def check(i: int, statistic: Statistic, result: Any) -> None:
            inputs.check_result(parts[i].tensor, statistic, result)

        run = partial(
            merge_pieces,
            self._method,
            settings=self._settings,
            backend=backend,
            threads=threads,
            check=check,
            room=room_on(inputs.device),
        )
        counted = run(pieces) if backend.batched else [run([piece])[0] for piece in pieces]
        _check_overflow({name: results[name] for name in names}, backend, threads)
        return {part.name: counters.tolist() for part, counters in zip(parts, counted, strict=True)}

    def _check_operands(self, names: Sequence[str]) -> None:
        inputs, selection = self._inputs, self._selection
        inputs.check_finite(selection, names, self._backend, self._threads)
        declared = self._method.statistics(self._settings, len(inputs.models), Place.alone((1,)), ())
        # A range over several entries does not say which of them it is that goes below zero.
        told = declared and all(statistic.scope == "segment" and shows_sign(statistic) for statistic in declared)
        if not (self._method.data.signed or told):
            inputs.check_importances(selection, names, self._backend, self._threads)

    def _shared_results(self, parts: Sequence[Segment]) -> dict[str, tuple[Any, ...]]:
        """Results of the rounds over blocks or the model, by the name of each part."""
        method, settings, n_models = self._method, self._settings, len(self._inputs.models)
        declared = method.statistics(settings, n_models, Place.alone((1,)), ())
        if not declared or declared[0].scope == "segment":
            return {}
        self._check_operands(self._selection.merged)
        by_name = {part.name: part for part in parts}
        results: dict[str, tuple[Any, ...]] = {}
        for each in group(declared[0].scope, by_name):
            members = [by_name[name] for name in each.offsets]
            found = self._reduce(each, members)
            results.update((part.name, found) for part in members)
        return results

    def _reduce(self, shared: Group[str], parts: Sequence[Segment]) -> tuple[Any, ...]:
        places = [(part.tensor, self._settings, self._places[part.name]) for part in parts]
        rounds = SharedRounds(self._method, places, len(self._inputs.models), shared)
        while rounds.pending:
            for part in parts:
                operands = self._inputs.operands(self._selection, part, self._method.data)
                accumulators = [accumulator for _, accumulator in rounds.pending.values()]
                sources = [statistic.subject.source(operands) for statistic, _ in rounds.pending.values()]
                offset = shared.offsets[part.name]
                update_together(accumulators, sources, self._backend, offset, threads=self._threads)
            for statistic, result in rounds.end_of_pass():
                if shared.extent and not np.isfinite(result).all():
                    self._refuse(statistic, result, parts)
        return tuple(rounds.results)

    def _refuse(self, statistic: Statistic, result: Any, parts: Sequence[Segment]) -> None:
        """Raise InputError for a statistic over several entries, with the name of that which makes it overflow."""
        alone = Range(statistic.subject)
        for part in parts:
            source = alone.subject.source(self._inputs.operands(self._selection, part, self._method.data))
            if source.size:
                (ends,) = Range.of_segments([alone], [source], self._backend, self._threads)
                self._inputs.check_result(part.tensor, alone, ends)
        self._inputs.check_result(parts[0].tensor, statistic, result)


def _check_overflow(results: Mapping[str, torch.Tensor], backend: Backend, threads: int) -> None:
    """float16 alone has so narrow a range that finite operands overflow it in practice."""
    halves = {name: result for name, result in results.items() if result.dtype == torch.float16}
    found = _first_nonfinite(halves, backend, threads)
    if found is not None:
        name, flat_index = found
        raise _overflow(name, halves[name], flat_index)


def _check_conversions(
    sources: Mapping[str, torch.Tensor], results: Mapping[str, torch.Tensor], backend: Backend, threads: int
) -> None:
    """What is copied may hold infinities, but none that float16 makes of a finite value."""
    halves = {name: result for name, result in results.items() if result.dtype == torch.float16 != sources[name].dtype}
    if _first_nonfinite(halves, backend, threads) is None:
        return
    for name, result in halves.items():
        overflows = sources[name].isfinite() & ~result.isfinite()
        if overflows.any():
            raise _overflow(name, result, int(overflows.flatten().int().argmax()))


def _first_nonfinite(tensors: Mapping[str, torch.Tensor], backend: Backend, threads: int) -> tuple[str, int] | None:
    """Name and flat index of the first NaN or infinity."""
    if not tensors:
        return None
    found = backend.first_nonfinite([Buffer.from_torch(tensor) for tensor in tensors.values()], threads=threads)
    return None if found is None else (list(tensors)[found[0]], found[1])


def _overflow(name: str, result: torch.Tensor, flat_index: int) -> InputError:
    index = position(tuple(result.shape), flat_index)
    return InputError(f"{name!r} overflows float16 at {index}; write bfloat16 or float32 instead")


def _empty(like: torch.Tensor, out_dtype: torch.dtype | None) -> torch.Tensor:
    return torch.empty(like.shape, dtype=out_dtype or like.dtype, device=like.device)


def _copy(tensor: torch.Tensor, out_dtype: torch.dtype | None) -> torch.Tensor:
    """A contiguous copy; of the output dtype where the tensor has a dtype that kernels read."""
    dtype = out_dtype if out_dtype is not None and tensor.dtype in _OUT_DTYPES else tensor.dtype
    return tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
