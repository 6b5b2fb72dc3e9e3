"""Run a method over segments whose operands are all in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.methods.base import Method, Operands, Place, Settings
from sta_kernels.methods.statistics import Statistic, Summary
from sta_kernels.methods.subjects import Importance


@dataclass(frozen=True)
class Piece:
    """One segment: where it is read from, where the result goes, and what is known of its importances already.

    Attributes:
        operands: contiguous or strided buffers.
        out: where the result goes.
        place: of the segment; None: it is all there is.
        summaries: per model, what its importance file says of the segment.
        earlier: results of the rounds over its block or the model.
    """

    operands: Operands
    out: Buffer
    place: Place | None = None
    summaries: tuple[Summary | None, ...] = ()
    earlier: tuple[Any, ...] = ()

    @property
    def where(self) -> Place:
        """The place, stated or not."""
        return self.place or Place.alone(self.out.shape)


Check = Callable[[int, Statistic, Any], None]
"""Told of each piece's statistics, by the piece's index; may raise."""
Room = Callable[[tuple[int, ...]], Buffer]
"""Makes a float32 buffer of a shape, where the operands are."""


def in_main_memory(shape: tuple[int, ...]) -> Buffer:
    """A float32 array, not yet filled."""
    return Buffer.from_numpy(np.empty(shape, np.float32))


def known_of(statistic: Statistic, summaries: Sequence[Summary | None]) -> Any:
    """A statistic's result where an importance file carries it, else None."""
    summary = summaries[statistic.subject.task] if summaries else None
    return None if summary is None else statistic.known(summary)


def reduce_pieces(
    method: Method, pieces: Sequence[Piece], settings: Settings, *, backend: Backend, threads: int, check: Check | None
) -> list[list[Any]]:
    """Results of each piece's statistics, round by round: one call per kind of statistic and measure.

    What is known already is not reduced again.
    """
    results = [list(piece.earlier) for piece in pieces]
    n_models = len(pieces[0].operands.models) if pieces else 0
    while True:
        unknown: dict[tuple[Any, str | None], list[tuple[int, int, Statistic]]] = defaultdict(list)
        declared: list[tuple[Statistic, ...]] = []
        for i, piece in enumerate(pieces):
            declared.append(method.statistics(settings, n_models, piece.where, results[i]))
            for statistic in declared[i]:
                results[i].append(known_of(statistic, piece.summaries))
                if results[i][-1] is None:
                    subject = statistic.subject
                    measure = subject.measure if isinstance(subject, Importance) else None
                    unknown[type(statistic), measure].append((i, len(results[i]) - 1, statistic))
        if not any(declared):
            return results
        for (kind, _), places in unknown.items():
            sources = [statistic.subject.source(pieces[i].operands) for i, _, statistic in places]
            found = kind.of_segments([statistic for *_, statistic in places], sources, backend, threads)
            for (i, j, _), result in zip(places, found, strict=True):
                results[i][j] = result
        if check is not None:
            for i, round_ in enumerate(declared):
                for statistic, result in zip(round_, results[i][len(results[i]) - len(round_) :], strict=True):
                    if pieces[i].out.size:
                        check(i, statistic, result)


def merge_pieces(
    method: Method,
    pieces: Sequence[Piece],
    settings: Settings,
    *,
    backend: Backend,
    threads: int,
    check: Check | None = None,
    room: Room = in_main_memory,
) -> list[np.ndarray[Any, Any]]:
    """Masks and statistics of all pieces, then the rule over all; no result is written if ``check`` refuses one.

    On a CPU, one piece at a time merges while its operands are in cache. On a GPU, all pieces of a model at a time take
    few launches, and wait for the statistics of each round once.

    Returns:
        The counters of each piece.
    """
    n_models = len(pieces[0].operands.models) if pieces else 0
    n_masks = method.masks(settings, n_models)
    if n_masks:
        pieces = [_masked(method, piece, settings, backend, threads, n_masks, room) for piece in pieces]
    results = reduce_pieces(method, pieces, settings, backend=backend, threads=threads, check=check)
    counts = [np.zeros(len(method.counters(n_models)), np.int64) for _ in pieces]
    # What a rule writes to its masks, it reads in its next call, which must not be held back.
    with nullcontext() if n_masks else backend.grouped():
        for piece, found, counted in zip(pieces, results, counts, strict=True):
            method.apply(
                backend,
                piece.operands,
                found,
                settings,
                place=piece.where,
                out=piece.out,
                counts=counted,
                threads=threads,
            )
    return counts


def _masked(
    method: Method, piece: Piece, settings: Settings, backend: Backend, threads: int, n_masks: int, room: Room
) -> Piece:
    masks = tuple(room(piece.out.shape) for _ in range(n_masks))
    operands = method.mask(backend, piece.operands, settings, place=piece.where, room=masks, threads=threads)
    return replace(piece, operands=operands)
