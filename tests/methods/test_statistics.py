"""Statistics over tiles: any order of tiles, the same bits as in one piece."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sta_kernels.kernels.backend import LEAF
from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.kernels.formula import Formula
from sta_kernels.kernels.numpy_backend import NumpyBackend
from sta_kernels.methods.base import Operands
from sta_kernels.methods.statistics import Mean, OrderStatistic, Range, Statistic, Sum, update_together
from sta_kernels.methods.subjects import Field, Importance

BACKEND = NumpyBackend()


def accumulate(statistic: Statistic, values: np.ndarray[Any, Any], tile: int, seed: int = 0) -> Any:
    """The result from tiles that arrive in a random order, as they do from several threads."""
    accumulator = statistic.accumulator(len(values), len(values))
    starts = np.arange(0, max(len(values), 1), tile)
    done = False
    while not done:
        for start in np.random.default_rng(seed).permutation(starts):
            source = ImportanceSource("lp", Buffer.from_numpy(values[start : start + tile]))
            accumulator.take(BACKEND, source, int(start), source.size, threads=1)()
        done = accumulator.end_of_pass()
    return accumulator.result


STATISTICS = (Range(Importance(0, "lp")), Mean(Importance(0, "lp")), OrderStatistic(Importance(0, "lp"), 5000))


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda statistic: type(statistic).__name__)
@pytest.mark.parametrize("size", [5000, 3 * LEAF, 10 * LEAF + 77])
def test_tiles_change_nothing(statistic: Statistic, size: int) -> None:
    values = np.random.default_rng(size).lognormal(0, 3, size).astype(np.float32)
    whole = accumulate(statistic, values, size)
    for tile in (LEAF, 2 * LEAF, 7 * LEAF):
        for seed in (1, 2):
            assert accumulate(statistic, values, tile, seed) == whole


def test_mean_is_not_a_plain_float32_sum() -> None:
    """The fixed order of a tier-B sum differs from others in the last bits; the mean of many equal values does not."""
    values = np.full(3 * LEAF + 5, 0.1, np.float32)
    assert accumulate(Mean(Importance(0, "lp")), values, LEAF) == np.float32(0.1)
    spread = np.random.default_rng(0).lognormal(0, 3, 9 * LEAF).astype(np.float32)
    np.testing.assert_allclose(
        accumulate(Mean(Importance(0, "lp")), spread, LEAF), spread.astype(np.float64).mean(), rtol=1e-7
    )


FLOATS = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(width=32, allow_nan=False))


@given(FLOATS, st.data())
def test_order_statistic_is_the_sorted_value(values: np.ndarray[Any, Any], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    assert accumulate(OrderStatistic(Importance(0, "lp"), k), values, LEAF) == np.sort(values)[k - 1]


def test_order_statistic_ranks_nan_last_and_minus_zero_first() -> None:
    values = np.array([np.nan, 0.0, -0.0, -np.inf, np.inf, -np.nan, 1e-45], np.float32)
    ranked = [accumulate(OrderStatistic(Importance(0, "lp"), k), values, LEAF) for k in range(1, 8)]
    assert ranked[:5] == [-np.inf, 0.0, 0.0, float(np.float32(1e-45)), np.inf]
    assert np.signbit(ranked[1])
    assert not np.signbit(ranked[2])
    assert np.isnan(ranked[5:]).all()


@pytest.mark.parametrize("position", [0, 5000, 9999])
def test_a_nan_anywhere_shows_in_the_range(position: int) -> None:
    values = np.ones(10_000, np.float32)
    values[position] = np.nan
    assert np.isnan(accumulate(Range(Importance(0, "lp")), values, LEAF)).all()


def test_segments_without_elements() -> None:
    nothing = np.empty(0, np.float32)
    assert accumulate(Range(Importance(0, "lp")), nothing, LEAF) == (np.inf, -np.inf)
    assert accumulate(Mean(Importance(0, "lp")), nothing, LEAF) == 0
    assert np.isnan(accumulate(OrderStatistic(Importance(0, "lp"), 1), nothing, LEAF))


def test_subnormals_survive_a_caller_who_flushes_them() -> None:
    torch = pytest.importorskip("torch")
    values = np.array([1e-40, 3e-40, 2e-40], np.float32)
    expected = [
        accumulate(s, values, LEAF)
        for s in (Range(Importance(0, "lp")), Mean(Importance(0, "lp")), OrderStatistic(Importance(0, "lp"), 1))
    ]
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        flushed = [
            accumulate(s, values, LEAF)
            for s in (Range(Importance(0, "lp")), Mean(Importance(0, "lp")), OrderStatistic(Importance(0, "lp"), 1))
        ]
    finally:
        torch.set_flush_denormal(False)
    assert flushed == expected
    assert expected[2] > 0


def test_several_at_once_are_the_same_as_one_by_one() -> None:
    """All kinds over the same tiles; ranges share their calls."""
    arrays = [np.random.default_rng(seed).lognormal(0, 3, 3 * LEAF + 9).astype(np.float32) for seed in range(3)]
    arrays[1][LEAF] = np.nan
    kinds = [
        Range(Importance(0, "lp")),
        Range(Importance(1, "lp")),
        Mean(Importance(2, "lp")),
        OrderStatistic(Importance(2, "lp"), 77),
    ]
    accumulators = [statistic.accumulator(len(arrays[0]), len(arrays[0])) for statistic in kinds]
    calls: list[int] = []

    class Counting(NumpyBackend):
        def ranges(self, sources: Any, minmax: Any, leaves: Any, *, threads: int) -> None:
            calls.append(len(sources))
            super().ranges(sources, minmax, leaves, threads=threads)

    open_ones = dict(enumerate(accumulators))
    while open_ones:
        for start in (LEAF, 0, 3 * LEAF, 2 * LEAF):
            tiles = [Buffer.from_numpy(arrays[kinds[i].subject.task][start : start + LEAF]) for i in open_ones]
            sources = [ImportanceSource("lp", tile) for tile in tiles]
            update_together(list(open_ones.values()), sources, Counting(), start, threads=1)
        open_ones = {i: accumulator for i, accumulator in open_ones.items() if not accumulator.end_of_pass()}
    for statistic, accumulator in zip(kinds, accumulators, strict=True):
        np.testing.assert_equal(accumulator.result, accumulate(statistic, arrays[statistic.subject.task], LEAF))
    assert calls == [1, 2] * 4  # the mean's sums, then two ranges in one call


def test_sums_of_fields_share_a_call() -> None:
    arrays = [np.random.default_rng(seed).standard_normal(2 * LEAF + 9).astype(np.float32) for seed in range(3)]
    distances = [Sum(Field(Formula("distance"), (task,))) for task in range(2)]
    calls: list[int] = []

    class Counting(NumpyBackend):
        def ranges(self, sources: Any, minmax: Any, leaves: Any, *, threads: int) -> None:
            assert minmax is None
            calls.append(len(sources))
            super().ranges(sources, minmax, leaves, threads=threads)

    accumulators = [statistic.accumulator(len(arrays[0]), len(arrays[0])) for statistic in distances]
    for start in (LEAF, 0, 2 * LEAF):
        base, *models = [Buffer.from_numpy(array[start : start + LEAF]) for array in arrays]
        operands = Operands(tuple(models), base, offset=start)
        update_together(
            accumulators, [each.subject.source(operands) for each in distances], Counting(), start, threads=1
        )
    assert calls == [2] * 3
    for accumulator, model in zip(accumulators, arrays[1:], strict=True):
        assert accumulator.end_of_pass()
        np.testing.assert_allclose(accumulator.result, np.abs(model - arrays[0]).astype(np.float64).sum(), rtol=1e-12)


@pytest.mark.parametrize("kind", [Range, Mean, OrderStatistic])
def test_whole_segments_are_the_same_as_tiles(kind: Any) -> None:
    arrays = [np.random.default_rng(n).lognormal(0, 3, n).astype(np.float32) for n in (1, 700, 2 * LEAF + 3, 0)]
    statistics = [kind(Importance(0, "lp"), 5) if kind is OrderStatistic else kind(Importance(0, "lp")) for _ in arrays]
    sources = [ImportanceSource("lp", Buffer.from_numpy(array)) for array in arrays]
    together = kind.of_segments(statistics, sources, BACKEND, 1)
    np.testing.assert_equal(together, [accumulate(s, a, LEAF) for s, a in zip(statistics, arrays, strict=True)])
