"""Run a method over segments whose operands are all in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.methods.base import Method, Operands, Settings
from sta_kernels.methods.statistics import Statistic, Summary


@dataclass(frozen=True)
class Piece:
    """One segment: where it is read from, where the result goes, and what is known of its importances already."""

    operands: Operands
    out: Buffer
    summaries: tuple[Summary | None, ...] = ()


Check = Callable[[int, Statistic, Any], None]
"""Told of each piece's statistics, by the piece's index; may raise."""


def source_of(statistic: Statistic, operands: Operands) -> ImportanceSource:
    """The importance that a statistic reduces, from the operands of a tile or segment."""
    importance = operands.importances[statistic.task] if statistic.measure != "amp" else None
    theta = operands.models[statistic.task] if statistic.measure != "lp" else None
    return ImportanceSource(statistic.measure, importance, theta)


def reduce_pieces(
    statistics: Sequence[Sequence[Statistic]], pieces: Sequence[Piece], *, backend: Backend, threads: int
) -> list[list[Any]]:
    """Results of each piece's statistics: what is not known already, in one call per kind of statistic and measure."""
    results: list[list[Any]] = []
    unknown: dict[tuple[Any, str], list[tuple[int, int]]] = defaultdict(list)
    for i, (declared, piece) in enumerate(zip(statistics, pieces, strict=True)):
        results.append([])
        for j, statistic in enumerate(declared):
            summary = piece.summaries[statistic.task] if piece.summaries else None
            results[i].append(None if summary is None else statistic.known(summary))
            if results[i][j] is None:
                unknown[type(statistic), statistic.measure].append((i, j))
    for (kind, _), places in unknown.items():
        chosen = [statistics[i][j] for i, j in places]
        sources = [source_of(statistics[i][j], pieces[i].operands) for i, j in places]
        for (i, j), result in zip(places, kind.of_segments(chosen, sources, backend, threads), strict=True):
            results[i][j] = result
    return results


def merge_pieces(
    method: Method,
    pieces: Sequence[Piece],
    settings: Settings,
    *,
    backend: Backend,
    threads: int,
    check: Check | None = None,
) -> list[np.ndarray[Any, Any]]:
    """Statistics of all pieces, then the rule over all of them; nothing is written if ``check`` refuses a result.

    On a CPU, one piece at a time merges while its operands are in cache. On a GPU, all pieces of a model at a time take
    few launches, and wait for their statistics once.

    Returns:
        The counters of each piece.
    """
    n_models = len(pieces[0].operands.models) if pieces else 0
    statistics = [method.statistics(settings, n_models, piece.out.size) for piece in pieces]
    results = reduce_pieces(statistics, pieces, backend=backend, threads=threads)
    if check is not None:
        for i, (declared, found) in enumerate(zip(statistics, results, strict=True)):
            for statistic, result in zip(declared, found, strict=True):
                if pieces[i].out.size:
                    check(i, statistic, result)
    counts = [np.zeros(len(method.counters(n_models)), np.int64) for _ in pieces]
    with backend.grouped():
        for piece, found, counted in zip(pieces, results, counts, strict=True):
            method.apply(backend, piece.operands, found, settings, out=piece.out, counts=counted, threads=threads)
    return counts
