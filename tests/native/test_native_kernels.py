"""Every kernel besides sta_merge gives the bits of the NumPy reference, on every instruction set."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from formula_cases import same_values
from kernel_cases import KINDS, importance, poisoned, same_bits, stored, weights

from sta_kernels.kernels.buffers import MEASURES, Buffer, DType, ImportanceSource
from sta_kernels.kernels.native import NativeBackend, available_isas
from sta_kernels.kernels.numpy_backend import NumpyBackend

SIZES = (0, 1, 7, 8, 63, 64, 65, 1000, 4095, 4096, 4097)
TWO_CHUNKS = 70_001
PAIRS = list(itertools.product(DType, DType))
# Dtypes of the importance and of the weight: one for all where a measure does not read it.
READ = {
    "lp": [(dtype, DType.F32) for dtype in DType],
    "amp": [(DType.F32, dtype) for dtype in DType],
    "lp_amp": PAIRS,
}


def source(measure: str, n: int, dtype: DType, theta_dtype: DType, kind: str, seed: int = 0) -> ImportanceSource:
    rng = np.random.default_rng(seed)
    stored_scores = Buffer.from_numpy(stored(importance(rng, n, kind), dtype), dtype)
    theta = Buffer.from_numpy(stored(weights(rng, n, kind), theta_dtype), theta_dtype)
    return ImportanceSource(measure, None if measure == "amp" else stored_scores, None if measure == "lp" else theta)


def of_every_isa(*tiles: int | None, streaming_bytes: int | None = None) -> list[NativeBackend]:
    """Backends to hold against one result of the reference, which takes longer than all of them."""
    return [NativeBackend(isa, tile, streaming_bytes) for isa in available_isas() for tile in tiles]


@pytest.mark.parametrize("with_base", [True, False])
@pytest.mark.parametrize("n", [*SIZES, TWO_CHUNKS])
def test_weighted_sum(reference: NumpyBackend, n: int, with_base: bool) -> None:
    rng = np.random.default_rng(n)
    for (dtype, other), n_models in itertools.product(PAIRS, (2,) if n == TWO_CHUNKS else (1, 2, 5)):
        base = Buffer.from_numpy(stored(weights(rng, n, "edges"), other), other)
        models = [Buffer.from_numpy(stored(weights(rng, n, "edges"), dtype), dtype) for _ in range(n_models)]
        factors = [float(f) for f in rng.normal(size=n_models)]
        results = []
        tiles = itertools.product(available_isas(), (None, 64))
        for backend in (reference, *(NativeBackend(isa, tile, streaming_bytes=n) for isa, tile in tiles)):
            out, buffer = poisoned(n, other)
            backend.weighted_sum(
                base if with_base else None, models, weights=factors, divisor=np.float32(sum(factors)).item(),
                lambda_=0.4, out=buffer, threads=2,
            )  # fmt: skip
            results.append(out)
        assert all(same_bits(out, results[0]) for out in results[1:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("measure", MEASURES)
def test_ranges_and_leaf_sums(reference: NumpyBackend, measure: str, kind: str) -> None:
    for dtype, theta_dtype in READ[measure]:
        sources = [source(measure, n, dtype, theta_dtype, kind, seed=n) for n in (*SIZES, TWO_CHUNKS)]
        results = []
        for backend in (reference, *of_every_isa(None, 192)):
            minmax = np.array([[np.inf, -np.inf]] * len(sources), np.float32)
            leaves = [np.full(-(-s.size // 4096), np.nan) for s in sources]
            backend.ranges(sources, minmax, leaves, threads=3)
            folds = np.array([backend.fold(leaf) for leaf in leaves])
            results.append((minmax, np.concatenate(leaves), folds))
        for other in results[1:]:
            assert np.array_equal(np.isnan(results[0][0]), np.isnan(other[0]))
            for ours, theirs in zip(results[0], other, strict=True):
                assert same_bits(np.nan_to_num(ours, nan=7), np.nan_to_num(theirs, nan=7))


@pytest.mark.parametrize("dtype", DType, ids=lambda dtype: dtype.name)
def test_ranges_of_a_few_values_in_any_place(native: NativeBackend, reference: NumpyBackend, dtype: DType) -> None:
    """Where no sums are asked for, ends are found by the bits of what is stored."""
    rng = np.random.default_rng(dtype)
    tiny, great = {DType.F16: (6e-8, 65504), DType.F64: (1e-310, 1e300)}.get(dtype, (1e-40, 3e38))
    magnitudes = np.array([0, tiny, 2e-3, 1, great, np.inf, np.nan])
    pool = stored(np.concatenate((magnitudes, np.copysign(magnitudes, -1))), dtype)
    arrays = [
        Buffer.from_numpy(rng.choice(rng.choice(pool, rng.integers(1, 5)), n), dtype)
        for n in (*range(1, 200), 4095, 4097, TWO_CHUNKS)
        for _ in range(4)
    ]
    for sources in ([ImportanceSource("lp", x) for x in arrays], [ImportanceSource("amp", None, x) for x in arrays]):
        results = []
        for backend in (reference, native):
            minmax = np.array([[np.inf, -np.inf]] * len(sources), np.float32)
            backend.ranges(sources, minmax, None, threads=2)
            results.append(minmax)
        assert same_values(*results)


def test_range_orders_the_zeros_and_keeps_what_it_was_given(native: NativeBackend) -> None:
    zeros = Buffer.from_numpy(np.array([0.0, -0.0, 0.0], np.float32))
    minmax = np.array([[np.inf, -np.inf]], np.float32)
    native.ranges([ImportanceSource("lp", zeros)], minmax, None, threads=1)
    assert np.signbit(minmax).tolist() == [[True, False]]
    minmax = np.array([[-3.0, 5.0]], np.float32)
    native.ranges([ImportanceSource("lp", zeros)], minmax, None, threads=1)
    assert minmax.tolist() == [[-3.0, 5.0]]


@pytest.mark.parametrize("n", [0, 1, 65, 1000, TWO_CHUNKS])
@pytest.mark.parametrize("measure", MEASURES)
def test_histogram(reference: NumpyBackend, measure: str, n: int) -> None:
    for number, ((dtype, theta_dtype), kind) in enumerate(itertools.product(READ[measure], KINDS)):
        if n == TWO_CHUNKS and number % 5:  # each dtype, some kinds: where a chunk ends does not depend on them
            continue
        scores = source(measure, n, dtype, theta_dtype, kind)
        top = np.zeros(1 << 11, np.uint64)
        reference.histogram(scores, prefix=0, prefix_bits=0, digit_bits=11, counts=top, threads=1)
        prefix = int(top.argmax())
        for prefix_bits, digit_bits in ((0, 11), (0, 16), (11, 11), (11, 1)):
            results = []
            for backend in (reference, *of_every_isa(64, None)):
                counts = np.ones(1 << digit_bits, np.uint64)
                backend.histogram(
                    scores, prefix=prefix if prefix_bits else 0, prefix_bits=prefix_bits, digit_bits=digit_bits,
                    counts=counts, threads=2,
                )  # fmt: skip
                results.append(counts)
            assert all(np.array_equal(counts, results[0]) for counts in results[1:])


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("kind", KINDS)
def test_order_statistic(reference: NumpyBackend, kind: str, measure: str) -> None:
    for (dtype, theta_dtype), n in itertools.product(READ[measure], (1, 2, 7, 65, 1000)):
        scores = source(measure, n, dtype, theta_dtype, kind)
        for k in sorted({1, min(2, n), n // 3 + 1, n // 2 + 1, n}):
            expected = reference.order_statistic(scores, k, threads=1)
            for native in of_every_isa(None):
                found = native.order_statistic(scores, k, threads=2)
                assert same_bits(np.array(found), np.array(expected)) or (np.isnan(found) and np.isnan(expected))


LARGE = 1 << 21
"""Large enough for the sampled bracket."""


def drawn(draw: str) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal(LARGE, np.float32)
    if draw == "lognormal":
        return np.exp(x)
    if draw == "constant":
        return np.full_like(x, 0.25)
    if draw == "two values":
        return np.where(x > 0, np.float32(1), np.float32(-0.0))
    if draw == "sorted":
        return np.sort(x)
    if draw == "misleading sample":  # the runs that are sampled lie far above all else
        for run in range(1024):
            x[LARGE // 1024 * run :][:64] = 100 + run
    elif draw == "nan and rare values":
        x[:] = 0
        x[7::64] = -1
        x[-3:] = np.nan
    return x


@pytest.mark.parametrize(
    "draw",
    ["normal", "lognormal", "constant", "two values", "sorted", "misleading sample", "nan and rare values"],
)
def test_order_statistic_of_large_tensors(draw: str) -> None:
    x = drawn(draw)
    ordered = np.sort(x)
    for native, threads in itertools.product(of_every_isa(None), (1, 2, 5)):
        for k in (1, 5, LARGE // 64, LARGE // 64 + 1, LARGE // 5, LARGE // 2, LARGE - 3, LARGE - 2, LARGE):
            found = native.order_statistic_exact(Buffer.from_numpy(x), k, threads=threads)
            assert np.array_equal(found, ordered[k - 1], equal_nan=True), (native, threads, k)


def test_order_statistic_equals_partition_of_forty_million() -> None:
    x = np.random.default_rng(1).standard_normal(40_000_000, np.float32)
    for k in (1, 8_000_000, 28_000_000, x.size):
        expected = np.partition(x, k - 1)[k - 1]
        for native in of_every_isa(None):
            assert native.order_statistic_exact(Buffer.from_numpy(x), k, threads=2) == expected


def test_order_statistic_of_float64_is_not_narrowed(native: NativeBackend) -> None:
    x = 1 + np.random.default_rng(0).permutation(5000) * 2.0**-45
    for view in (x, x[::-3]):
        for k in (1, 700, view.size):
            assert native.order_statistic_exact(Buffer.from_numpy(view), k, threads=2) == np.sort(view)[k - 1]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("n", [*SIZES, TWO_CHUNKS])
def test_sta_forget(reference: NumpyBackend, n: int, measure: str) -> None:
    rng = np.random.default_rng(n)
    for number, ((dtype, other), kind) in enumerate(itertools.product(PAIRS, KINDS)):
        if (measure == "amp" and other != DType.F32) or (n == TWO_CHUNKS and number % 5):
            continue
        target, base, model = (Buffer.from_numpy(stored(weights(rng, n, "edges"), dtype), dtype) for _ in range(3))
        scores = stored(importance(rng, n, kind), other)
        results = []
        for backend in (reference, *of_every_isa(None), *of_every_isa(64, streaming_bytes=1)):
            out, buffer = poisoned(n, dtype)
            counts = np.array([5], np.int64)
            backend.sta_forget(
                target, base, model,
                ImportanceSource(
                    measure,
                    None if measure == "amp" else Buffer.from_numpy(scores, other),
                    None if measure == "lp" else model,
                ),
                threshold=0.0003, weight=0.75, lambda_=1.5, out=buffer, counts_address=counts.ctypes.data, threads=2,
            )  # fmt: skip
            results.append((out, counts))
        for out, counts in results[1:]:
            assert same_bits(out, results[0][0])
            assert counts == results[0][1]


@pytest.mark.parametrize("n", [*SIZES, TWO_CHUNKS])
def test_taylor_accumulate(reference: NumpyBackend, native: NativeBackend, n: int) -> None:
    rng = np.random.default_rng(n)
    for dtype, grad_dtype in PAIRS:
        start = stored(importance(rng, n, "edges"), dtype)
        grad = Buffer.from_numpy(stored(weights(rng, n, "edges"), grad_dtype), grad_dtype)
        totals = [start.copy(), start.copy()]
        for backend, total in zip((reference, native), totals, strict=True):
            backend.taylor_accumulate(Buffer.from_numpy(total, dtype), grad, threads=2)
        assert same_bits(*totals)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("n", [*SIZES, TWO_CHUNKS])
def test_taylor_finish(reference: NumpyBackend, n: int, measure: str) -> None:
    rng = np.random.default_rng(n)
    for (dtype, param_dtype), in_place in itertools.product(PAIRS, (False, True)):
        start = stored(importance(rng, n, "plain"), dtype)
        param = Buffer.from_numpy(stored(weights(rng, n, "edges"), param_dtype), param_dtype)
        results = []
        for backend in (reference, *of_every_isa(None)):
            total = start.copy()
            out = total if in_place else poisoned(n, dtype)[0]
            minmax, leaves = np.array([np.inf, -np.inf], np.float32), np.zeros(-(-n // 4096))
            backend.taylor_finish(
                Buffer.from_numpy(total, dtype), param, measure=measure, out=Buffer.from_numpy(out, dtype),
                minmax=minmax, leaves=leaves, threads=2,
            )  # fmt: skip
            results.append((out, minmax, leaves))
        for found in results[1:]:
            assert all(same_bits(a, b) for a, b in zip(found, results[0], strict=True))


def test_first_nonfinite(native: NativeBackend) -> None:
    for dtype in DType:
        arrays = [np.zeros(200_001, dtype.numpy) for _ in range(3)]
        buffers = [Buffer.from_numpy(array, dtype) for array in arrays]
        assert native.first_nonfinite(buffers) is None
        for operand, index, value in ((2, 200_000, np.nan), (1, 150_000, np.inf), (1, 70_000, -np.inf), (0, 3, np.nan)):
            arrays[operand][index] = stored(np.array([value], np.float32), dtype)[0]
            assert native.first_nonfinite(buffers) == (operand, index)
            assert native.first_nonfinite(buffers, threads=3) == (operand, index)
