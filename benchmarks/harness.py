"""Interleaved timing of an op and its contenders, and the checks that come before it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import records
from sta_kernels.kernels import ENVIRONMENT_VARIABLE

WINDOW = 1 << 18
# After a parallel region, OpenMP's workers spin for some milliseconds, on processors that the next contender needs.
PAUSE = 0.02
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_QUANTILES = {"p20": 0.2, "p50": 0.5, "p80": 0.8}


@dataclass(frozen=True)
class Contender:
    """Something to time.

    Attributes:
        name: in tables and rows.
        run: one call of it.
        n_bytes: that it has to move at the least, from ``costs``.
    """

    name: str
    run: Callable[[], object]
    n_bytes: int = 0


class Contest:
    """Times contenders round by round, so that whatever else the machine does hits all of them alike.

    pytest-benchmark times the first contender, and calls the others before each of its rounds, outside its clock.
    """

    def __init__(self, benchmark: Any, rounds: int, common: records.Row, folder: Path) -> None:
        self._benchmark = benchmark
        self._rounds = rounds
        self._common = common
        self._folder = folder

    def __call__(
        self,
        op: str,
        contenders: Sequence[Contender],
        case: Mapping[str, Any],
        *,
        share_of_rounds: float = 1.0,
    ) -> None:
        """Time, and append one row per contender.

        Args:
            op: names the file of the rows.
            contenders: the first is the op itself; all have been called before (checked), except rooflines.
            case: what tells this measurement from the op's others.
            share_of_rounds: for contenders that take seconds.
        """
        ours, *others = contenders
        for other in others:
            other.run()
        order = list(others)
        times: dict[str, list[float]] = {each.name: [] for each in contenders}

        def run_others() -> None:
            for each in order:
                sleep(PAUSE)
                began = perf_counter()
                result = each.run()
                times[each.name].append(perf_counter() - began)
                del result
            if order:
                order.append(order.pop(0))
            sleep(PAUSE)

        self._benchmark.group = op
        self._benchmark.pedantic(ours.run, setup=run_others, rounds=max(3, round(self._rounds * share_of_rounds)))
        if self._benchmark.disabled:
            return
        times[ours.name] = list(self._benchmark.stats.stats.data)
        own = np.array(times[ours.name])
        rows: list[records.Row] = []
        for each in contenders:
            seconds = np.array(times[each.name])
            row: records.Row = {"op": op, "contender": each.name, "case": dict(case), "rounds": len(seconds)}
            row["seconds"] = quantiles(seconds)
            row["speedup"] = _ratio(seconds, own, 1.0)
            if each.n_bytes:
                row["bytes"] = each.n_bytes
                row["bytes_per_second"] = records.rounded(each.n_bytes / float(np.median(seconds)))
                row["share"] = _ratio(seconds, own, ours.n_bytes / each.n_bytes)
            rows.append(row | self._common)
        records.append(self._folder, rows)
        for row in rows[1:]:
            self._benchmark.extra_info[row["contender"]] = row["seconds"]["p50"]
        MEASURED.extend(rows)


MEASURED: list[records.Row] = []
"""Rows of this session, for the table at its end."""


def quantiles(values: np.ndarray[Any, Any]) -> dict[str, float]:
    """p20, p50 and p80."""
    return {name: records.rounded(float(np.quantile(values, q))) for name, q in _QUANTILES.items()}


def _ratio(theirs: np.ndarray[Any, Any], own: np.ndarray[Any, Any], factor: float) -> dict[str, float]:
    """How many times the op is better: by the medians, and round by round."""
    medians = float(np.median(theirs) / np.median(own)) * factor
    return {"medians": records.rounded(medians), **quantiles(theirs / own * factor)}


@contextmanager
def reference() -> Iterator[None]:
    """Serve the ops called within from the NumPy reference."""
    before = os.environ.get(ENVIRONMENT_VARIABLE)
    os.environ[ENVIRONMENT_VARIABLE] = "reference"
    try:
        yield
    finally:
        del os.environ[ENVIRONMENT_VARIABLE]
        if before is not None:
            os.environ[ENVIRONMENT_VARIABLE] = before


def windows(n_elements: int) -> list[slice]:
    """Begin, middle and end of a tensor: what an elementwise op is compared on with the reference."""
    starts = sorted({0, max(0, n_elements // 2 - WINDOW // 2), max(0, n_elements - WINDOW)})
    return [slice(start, min(start + WINDOW, n_elements)) for start in starts]


def check_bits(actual: Tensor, expected: Tensor) -> None:
    """Require the same dtype, shape and bits.

    Raises:
        AssertionError: they differ.
    """
    integers = _INTEGERS[expected.itemsize]
    same = actual.dtype == expected.dtype and torch.equal(actual.view(integers), expected.view(integers))
    assert same, "not the reference's bits: no timing of a wrong result"


def check_mostly_equal(actual: Tensor, expected: Tensor) -> None:
    """Require near equality of 999 in 1,000 elements: a literal formula in rounded arithmetic breaks ties its own way.

    Raises:
        AssertionError: they differ in more.
    """
    tolerance = 4 * torch.finfo(expected.dtype).eps
    near = torch.isclose(actual, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    share = float(near.double().mean())
    assert share >= 0.999, f"only {share:.3%} of the elements agree: not the same computation"
