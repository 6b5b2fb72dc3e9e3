"""Run a method over one segment whose operands are all in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.methods.base import Method, Operands, Settings
from sta_kernels.methods.statistics import Statistic, Summary


def source_of(statistic: Statistic, operands: Operands) -> ImportanceSource:
    """The importance that a statistic reduces, from the operands of a tile or segment."""
    importance = operands.importances[statistic.task] if statistic.measure != "amp" else None
    theta = operands.models[statistic.task] if statistic.measure != "lp" else None
    return ImportanceSource(statistic.measure, importance, theta)


def reduce_segment(
    statistics: Sequence[Statistic],
    operands: Operands,
    n_elements: int,
    *,
    backend: Backend,
    threads: int,
    summaries: Sequence[Summary | None] = (),
) -> list[Any]:
    """Results of the statistics, taken from ``summaries`` (one per model) where those carry them."""
    results: list[Any] = []
    for statistic in statistics:
        summary = summaries[statistic.task] if summaries else None
        result = statistic.known(summary) if summary is not None else None
        if result is None:
            accumulator = statistic.accumulator(n_elements)
            source = source_of(statistic, operands)
            done = False
            while not done:
                accumulator.update(backend, source, 0, threads=threads)
                done = accumulator.end_of_pass()
            result = accumulator.result
        results.append(result)
    return results


def merge_segment(
    method: Method,
    operands: Operands,
    settings: Settings,
    out: Buffer,
    *,
    backend: Backend,
    threads: int,
    summaries: Sequence[Summary | None] = (),
    check: Callable[[Statistic, Any], None] | None = None,
) -> np.ndarray[Any, Any]:
    """Statistics, then the rule, over one segment in memory; ``check`` may refuse a result. Returns the counters."""
    n_models = len(operands.models)
    statistics = method.statistics(settings, n_models, out.size)
    results = reduce_segment(statistics, operands, out.size, backend=backend, threads=threads, summaries=summaries)
    for statistic, result in zip(statistics, results, strict=True):
        if out.size and check is not None:
            check(statistic, result)
    counts = np.zeros(len(method.counters(n_models)), np.int64)
    method.apply(backend, operands, results, settings, out=out, counts=counts, threads=threads)
    return counts
