"""sta_merge: every instruction set, tile size and number of threads gives the bits of the NumPy reference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from allpairspy import AllPairs
from kernel_cases import KINDS, MergeCase, poisoned, run_merge, run_together, same_bits, stored

from sta_kernels.errors import InputError
from sta_kernels.kernels.buffers import Buffer, DType
from sta_kernels.kernels.native import NativeBackend, available_isas
from sta_kernels.kernels.numpy_backend import NumpyBackend
from sta_kernels.methods.quantile import rank_of_quantile

N_TASKS = (*range(1, 17), 20, 33, 64)
SIZES = (0, 1, 7, 8, 63, 64, 65, 1000)
QUANTILES = (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1)

LARGE = 2 * 65536 + 4099
"""Elements of three chunks, the last neither of whole tiles nor of whole vectors."""
STREAMING = itertools.cycle((None, 1, 1, None, None))
"""Merges that write past the caches, as those of large tensors do; of a period that no grid here has."""


def check(reference: NumpyBackend, case: MergeCase, isas: tuple[str, ...], tile: int | None, threads: int) -> None:
    expected, expected_counts = run_merge(reference, case)
    for isa, streaming_bytes in zip(isas, STREAMING, strict=False):
        out, counts = run_merge(NativeBackend(isa, tile, streaming_bytes), case, threads=threads)
        assert same_bits(out, expected), (isa, tile, threads, np.flatnonzero(out != expected)[:5])
        assert counts == expected_counts


@pytest.mark.parametrize("n_tasks", N_TASKS)
def test_bits_on_a_grid_of_small_sizes(reference: NumpyBackend, n_tasks: int) -> None:
    """All dtypes with all kinds; each rank with every one of them, but not with all at once."""
    tiles = itertools.cycle((None, 64, 192, None, 64, 192, 64))  # seven, so that none goes with one instruction set
    ranks = sorted({rank_of_quantile(p, n_tasks) for p in QUANTILES})
    for dtype, importance_dtype, (number, kind) in itertools.product(DType, DType, enumerate(KINDS)):
        k = ranks[(dtype + importance_dtype + number) % len(ranks)]
        cases = [MergeCase.draw(n_tasks, n, dtype, importance_dtype, kind, k, seed=n) for n in SIZES]
        expected, expected_counts = run_together(reference, cases)
        for isa, streaming_bytes in zip(available_isas(), STREAMING, strict=False):
            backend = NativeBackend(isa, next(tiles), streaming_bytes)
            results = [run_merge(backend, case, threads=2) for case in cases]
            for case, (out, _), wanted in zip(cases, results, expected, strict=True):
                assert same_bits(out, wanted), (dtype, importance_dtype, kind, k, isa, case.n)
            assert np.sum([counts for _, counts in results], axis=0).tolist() == expected_counts


FACTORS = [
    N_TASKS, list(DType), list(DType), QUANTILES, KINDS, ("lp", "amp", "lp_amp"), ("drop", "all", "first"),
    (1, 2, 5), (64, 1024, 65536), (1.0, 0.3), available_isas() or ("none",),
]  # fmt: skip


@pytest.mark.parametrize("row", list(AllPairs(FACTORS)), ids=lambda row: "-".join(map(str, row)))
def test_bits_on_a_pairwise_covering_of_large_sizes(reference: NumpyBackend, row: list) -> None:
    n_tasks, dtype, importance_dtype, p, kind, measure, ties, threads, tile, lambda_, isa = row
    case = MergeCase.draw(
        n_tasks, LARGE, dtype, importance_dtype, kind, rank_of_quantile(p, n_tasks),
        measure=measure, ties=ties, lambda_=lambda_,
        weights=None if lambda_ == 1 else [0.5 + 0.25 * i for i in range(n_tasks)],
    )  # fmt: skip
    check(reference, case, (isa,), tile, threads)


@pytest.mark.parametrize("ties", ["drop", "all", "first"])
@pytest.mark.parametrize("measure", ["lp", "amp", "lp_amp"])
@pytest.mark.parametrize("n_tasks", [1, 2, 3, 5, 8, 9, 16])
def test_bits_of_every_rank_measure_and_treatment_of_ties(
    reference: NumpyBackend, n_tasks: int, measure: str, ties: str
) -> None:
    for k, (number, kind) in itertools.product(range(n_tasks + 1), enumerate(KINDS)):
        weighted = (k + number) % 2  # what is kept is multiplied after it has been chosen
        parameters = {"weights": [(-0.5) ** i for i in range(n_tasks)], "lambda_": 0.3} if weighted else {}
        case = MergeCase.draw(
            n_tasks, 257, DType.BF16, DType.BF16, kind, k, seed=k, measure=measure, ties=ties, **parameters
        )
        check(reference, case, available_isas(), None, threads=1)


@pytest.mark.parametrize("divisor", [0.0, 1e-45, 1e-38, 2.0**-101, 1e-12, 1.0, 3.0, 1e30, 3e38, np.inf, np.nan, -2.0])
def test_bits_under_any_divisor(reference: NumpyBackend, divisor: float) -> None:
    for shift, kind in itertools.product((0.0, 1e-40, 0.25, -1.0, np.nan), KINDS):
        case = MergeCase.draw(4, 1000, DType.F32, DType.F32, kind, 2)
        case.normaliser[:] = shift, divisor
        case.normaliser[1] = 0.0, 1.0
        check(reference, case, available_isas(), None, threads=1)


def test_nan_importance_is_never_selected(native: NativeBackend) -> None:
    case = MergeCase.draw(3, 64, DType.F32, DType.F32, "plain", 1)
    case.importances[1][:] = np.nan
    _, counts = run_merge(native, case)
    assert counts[1] == 0
    assert counts[0] + counts[2] > 0


def test_base_keeps_its_own_bits_where_nothing_is_selected(native: NativeBackend) -> None:
    base = np.array([-0.0, 0.1, 1e300, 2.0**-1000], np.float64)
    case = MergeCase.draw(3, 4, DType.F64, DType.F32, "constant", 2)
    case.base = base
    case.finetuned = [base * 3 for _ in range(3)]
    out, counts = run_merge(native, case)
    assert same_bits(out, base)
    assert counts == [0, 0, 0, 4]


@pytest.mark.parametrize("dtype", list(DType))
def test_strided_misaligned_and_in_place_operands(reference: NumpyBackend, native: NativeBackend, dtype: DType) -> None:
    rng = np.random.default_rng(3)
    shape = (5, 6, 7)

    def strided(values: np.ndarray) -> Buffer:
        room = np.zeros((7, 2 * 6, 5 + 1), dtype.numpy)
        view = room[:, ::2, :5].transpose(2, 1, 0)
        view[...] = stored(values, dtype)
        return Buffer.from_numpy(view, dtype)

    def misaligned(values: np.ndarray) -> Buffer:
        raw = np.zeros(values.size * dtype.itemsize + 1, np.uint8)[1:]
        raw[:] = stored(values, dtype).reshape(-1).view(np.uint8)
        return Buffer(raw.__array_interface__["data"][0], dtype, shape, None, raw)

    weights = [rng.normal(size=shape).astype(np.float32) for _ in range(3)]
    scores = [rng.exponential(size=shape).astype(np.float32) for _ in range(2)]
    normaliser = np.array([[0, 5], [0, 7]], np.float32)

    def merged(backend: NativeBackend | NumpyBackend, place: object, out: Buffer | None) -> np.ndarray:
        base = place(weights[0])
        backend.sta_merge(
            base, [place(w) for w in weights[1:]], [place(s) for s in scores], measure="lp",
            normaliser_address=normaliser.ctypes.data, k=1, ties="drop", weights=None, lambda_=1.0,
            out=base if out is None else out, counts_address=0, threads=1,
        )  # fmt: skip
        return np.ascontiguousarray((base if out is None else out).numpy())

    plain = poisoned(5 * 6 * 7, dtype)[1]
    expected = merged(reference, misaligned, plain).copy().reshape(shape)
    for place in (strided, misaligned):
        assert same_bits(merged(native, place, None).reshape(shape), expected)
        assert same_bits(merged(native, place, strided(np.zeros(shape))).reshape(shape), expected)


@pytest.mark.parametrize("streaming_bytes", [None, 1])
@pytest.mark.parametrize("n", [1, 31, 33, 100, 300])
def test_nothing_is_written_beyond_the_output(isa: str, n: int, streaming_bytes: int | None) -> None:
    case = MergeCase.draw(3, n, DType.BF16, DType.BF16, "plain", 2)
    expected, _ = run_merge(NativeBackend(isa), case)
    for offset in range(0, 64, 6):
        room = np.full(n + 128, 0xABCD, np.uint16)
        NativeBackend(isa, streaming_bytes=streaming_bytes).sta_merge(
            Buffer.from_numpy(case.base, DType.BF16),
            [Buffer.from_numpy(a, DType.BF16) for a in case.finetuned],
            [Buffer.from_numpy(a, DType.BF16) for a in case.importances],
            measure="lp", normaliser_address=case.normaliser.ctypes.data, k=2, ties="drop", weights=None, lambda_=1.0,
            out=Buffer.from_numpy(room[offset : offset + n], DType.BF16), counts_address=0, threads=1,
        )  # fmt: skip
        assert (room[:offset] == 0xABCD).all(), offset
        assert (room[offset + n :] == 0xABCD).all(), offset
        assert same_bits(room[offset : offset + n], expected), offset


def test_more_models_than_the_core_takes_are_refused_by_number(native: NativeBackend) -> None:
    case = MergeCase.draw(257, 4, DType.F32, DType.F32, "plain", 1)
    with pytest.raises(InputError, match="257 models: the native core merges at most 256"):
        run_merge(native, case)
