"""The NumPy backend: any layout, dtype and size gives what the exact functions give on plain float32 arrays."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.buffers import Buffer, DType, ImportanceSource
from sta_kernels.kernels.numpy_backend import NumpyBackend
from sta_kernels.kernels.reference import dtypes, importance, linear, sta_forget, sta_merge, statistics

BACKEND = NumpyBackend()
ALL_DTYPES = tuple(DType)
SENTINEL = 0xA5


def stored(values, dtype):
    values = np.asarray(values, np.float32)
    if dtype is DType.BF16:
        return dtypes.float32_to_bfloat16(values)
    return values.astype(dtype.numpy)


def loaded(array, dtype):
    return dtypes.bfloat16_to_float32(array) if dtype is DType.BF16 else array.astype(np.float32)


def contiguous(array):
    return array.copy()


def transposed(array):
    return np.asfortranarray(array)


def stepped(array):
    wide = np.zeros((2 * array.shape[0], 3 * array.shape[1]), array.dtype)
    wide[1::2, ::3] = array
    return wide[1::2, ::3]


def reversed_rows(array):
    return array[::-1].copy()[::-1]


def misaligned(array):
    raw = np.empty(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


LAYOUTS = (contiguous, transposed, stepped, reversed_rows, misaligned)


class Case:
    """Operands in storage, and the same as float32 arrays."""

    def __init__(self, dtype=DType.F32, layout=contiguous, shape=(5, 7), n_tasks=4, importance_dtype=None, seed=0):
        rng = np.random.default_rng(seed)
        self.dtype, self.layout, self.shape, self.n_tasks = dtype, layout, shape, n_tasks
        self.importance_dtype = importance_dtype or dtype
        self.base = self._operand(rng.standard_normal(shape), dtype)
        self.finetuned = [self._operand(rng.standard_normal(shape), dtype) for _ in range(n_tasks)]
        self.importances = [self._operand(rng.integers(0, 9, shape) / 4, self.importance_dtype) for _ in range(n_tasks)]
        self.normaliser = np.float32([[0.25 * i, 2 + i] for i in range(n_tasks)])

    def _operand(self, values, dtype):
        return self.layout(stored(values, dtype))

    def buffers(self, arrays, dtype=None):
        return [Buffer.from_numpy(array, dtype or self.dtype) for array in arrays]

    @property
    def base32(self):
        return loaded(self.base, self.dtype).reshape(-1)

    @property
    def finetuned32(self):
        return np.array([loaded(array, self.dtype).reshape(-1) for array in self.finetuned])

    @property
    def importances32(self):
        return np.array([loaded(array, self.importance_dtype).reshape(-1) for array in self.importances])

    def merge(self, out, out_dtype, *, measure="lp", k=2, ties="drop", weights=None, lambda_=1.0, counts=None):
        BACKEND.sta_merge(
            *self.buffers([self.base]),
            self.buffers(self.finetuned),
            None if measure == "amp" else self.buffers(self.importances, self.importance_dtype),
            measure=measure,
            normaliser_address=self.normaliser.ctypes.data,
            k=k,
            ties=ties,
            weights=weights,
            lambda_=lambda_,
            out=Buffer.from_numpy(out, out_dtype),
            counts_address=0 if counts is None else counts.ctypes.data,
            threads=1,
        )

    def merged32(self, *, measure="lp", k=2, ties="drop", weights=None, lambda_=1.0):
        values = importance.measure_exact(measure, self.importances32, self.finetuned32)
        mask = sta_merge.mask_exact(sta_merge.normalise_exact(values, *self.normaliser.T), k, ties)
        return sta_merge.merge_exact(self.base32, self.finetuned32, mask, weights, lambda_), mask


def empty_output(case, dtype, layout=contiguous):
    """Filled with NaN, so that an element left unwritten shows."""
    return layout(stored(np.full(case.shape, np.nan), dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("measure", ["lp", "amp", "lp_amp"])
def test_merge(dtype, layout, measure):
    case = Case(dtype, layout)
    for array in (*case.finetuned, *case.importances):
        array[0, 0] = stored(np.nan, dtype)  # a position that keeps nothing, in every measure
    out = empty_output(case, dtype, layout)
    counts = np.arange(5, dtype=np.int64)
    options = {"measure": measure, "weights": (0.5, 1.5, 1, 0.3), "lambda_": 0.7}
    case.merge(out, dtype, counts=counts, **options)
    merged, mask = case.merged32(**options)
    expected = stored(merged, dtype).reshape(-1)
    if dtype is DType.F64:
        expected = np.where(mask.any(axis=0), expected, case.base.reshape(-1))
    assert 0 < mask.any(axis=0).mean() < 1
    np.testing.assert_array_equal(out.reshape(-1), expected)
    np.testing.assert_array_equal(counts, [*(mask.sum(axis=1) + range(4)), 4 + (~mask.any(axis=0)).sum()])


@pytest.mark.parametrize("importance_dtype", ALL_DTYPES)
@pytest.mark.parametrize("out_dtype", ALL_DTYPES)
def test_merge_in_mixed_dtypes(importance_dtype, out_dtype):
    case = Case(DType.F16, importance_dtype=importance_dtype)
    out = empty_output(case, out_dtype)
    case.merge(out, out_dtype)
    np.testing.assert_array_equal(out.reshape(-1), stored(case.merged32()[0], out_dtype))


@pytest.mark.parametrize("k", range(5))
@pytest.mark.parametrize("ties", ["drop", "all", "first"])
def test_merge_ranks_and_ties(k, ties):
    case = Case()
    out = empty_output(case, DType.F32)
    case.merge(out, DType.F32, k=k, ties=ties)
    np.testing.assert_array_equal(out.reshape(-1), case.merged32(k=k, ties=ties)[0])


def test_merge_of_shapes_that_differ_in_being_flattened():
    case = Case()
    expected = case.merged32()[0]
    case.finetuned = [array.reshape(-1) for array in case.finetuned]
    case.importances = [array.reshape(7, 1, 5) for array in case.importances]
    out = np.empty(35, np.float32)
    case.merge(out, DType.F32)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.usefixtures("parts_of_one_leaf")
@pytest.mark.parametrize("n_elements", [4095, 4096, 4097, 9000])
def test_merge_in_parts(n_elements):
    case = Case(shape=(1, n_elements), layout=transposed)
    out = empty_output(case, DType.F32)
    counts = np.zeros(5, np.int64)
    case.merge(out, DType.F32, counts=counts)
    merged, mask = case.merged32()
    np.testing.assert_array_equal(out.reshape(-1), merged)
    np.testing.assert_array_equal(counts, [*mask.sum(axis=1), (~mask.any(axis=0)).sum()])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_merge_into_an_operand(layout):
    for operand in ("base", "finetuned"):
        case = Case(layout=layout)
        expected = case.merged32()[0]
        out = case.base if operand == "base" else case.finetuned[1]
        case.merge(out, DType.F32)
        np.testing.assert_array_equal(out.reshape(-1), expected)


def test_nothing_beside_a_strided_output_is_written():
    case = Case()
    raw = np.full((10, 21), -7, np.float32)
    case.merge(raw[1::2, ::3], DType.F32)
    np.testing.assert_array_equal(raw[1::2, ::3].reshape(-1), case.merged32()[0])
    raw[1::2, ::3] = -7
    assert (raw == -7).all()


def test_nothing_beside_a_misaligned_output_is_written():
    case = Case(shape=(3, 3))
    raw = np.full(36 + 3, SENTINEL, np.uint8)
    out = raw[1:37].view(np.float32).reshape(3, 3)
    case.merge(out, DType.F32)
    np.testing.assert_array_equal(out.reshape(-1), case.merged32()[0])
    np.testing.assert_array_equal(raw[[0, 37, 38]], SENTINEL)


def test_expanded_and_scalar_operands():
    case = Case(shape=(4, 6))
    case.base = np.broadcast_to(np.float32([[1], [2], [3], [4]]), (4, 6))
    out = empty_output(case, DType.F32)
    case.merge(out, DType.F32)
    np.testing.assert_array_equal(out.reshape(-1), case.merged32()[0])
    scalar = Case(shape=(), layout=np.copy)
    out = np.array(np.nan, np.float32)
    scalar.merge(out, DType.F32, k=0)
    assert out == scalar.merged32(k=0)[0][0]


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5)])
def test_empty_operands(shape):
    case = Case(shape=shape, layout=np.copy)
    counts = np.zeros(5, np.int64)
    case.merge(np.empty(shape, np.float32), DType.F32, counts=counts)
    assert not counts.any()
    source = ImportanceSource("lp", Buffer.from_numpy(case.importances[0]))
    minmax = np.array([[np.inf, -np.inf]], np.float32)
    BACKEND.ranges([source], minmax, [np.empty(0)], threads=1)
    np.testing.assert_array_equal(minmax, [[np.inf, -np.inf]])
    assert BACKEND.fold(np.empty(0)) == 0.0
    assert BACKEND.first_nonfinite(case.buffers([case.base])) is None
    with pytest.raises(ValueError, match="k = 1"):
        BACKEND.order_statistic(source, 1, threads=1)


def test_a_float64_base_survives_where_nothing_is_selected():
    case = Case(DType.F64)
    case.base[0] = (1 + 2.0**-40, -0.0, 1e300, 2.0**-1074, np.inf, np.nan, 0.1)
    for array in case.importances:
        array[0] = 1  # all tie once normalised alike
    case.normaliser[:] = (0, 1)
    out = empty_output(case, DType.F64)
    case.merge(out, DType.F64)
    assert out[0].tobytes() == case.base[0].tobytes()
    narrow = empty_output(case, DType.F32)
    case.merge(narrow, DType.F32)
    with np.errstate(over="ignore"):
        assert narrow[0].tobytes() == case.base[0].astype(np.float32).tobytes()


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_negative_zero_survives_where_nothing_is_selected(dtype):
    case = Case(dtype)
    case.base[0] = stored(np.full(7, -0.0), dtype)
    for array in case.importances:
        array[0] = 0
    case.normaliser[:] = (0, 1)
    out = empty_output(case, dtype)
    case.merge(out, dtype)
    assert out[0].tobytes() == case.base[0].tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("with_base", [False, True])
def test_weighted_sum(dtype, layout, with_base):
    case = Case(dtype, layout)
    out = empty_output(case, dtype, layout)
    weights = (0.5, 1.5, -1, 0.3)
    BACKEND.weighted_sum(
        case.buffers([case.base])[0] if with_base else None,
        case.buffers(case.finetuned),
        weights=weights,
        divisor=1.3,
        lambda_=0.7,
        out=Buffer.from_numpy(out, dtype),
        threads=1,
    )
    base = case.base32 if with_base else None
    expected = linear.weighted_sum_exact(base, case.finetuned32, weights, 1.3, 0.7)
    np.testing.assert_array_equal(out.reshape(-1), stored(expected, dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("measure", ["lp", "amp", "lp_amp"])
def test_forget(dtype, layout, measure):
    case = Case(dtype, layout)
    target, base, finetuned = (
        Buffer.from_numpy(array, dtype) for array in (case.finetuned[1], case.base, case.finetuned[0])
    )
    source = ImportanceSource(measure, Buffer.from_numpy(case.importances[0], dtype), finetuned)
    threshold = BACKEND.order_statistic(source, 20, threads=1)
    values = importance.measure_exact(measure, case.importances32[0], case.finetuned32[0])
    assert threshold == np.partition(values, 19)[19]
    out = empty_output(case, dtype, layout)
    counts = np.array([100], np.int64)
    BACKEND.sta_forget(
        target, base, finetuned, source, threshold=threshold, weight=0.9, lambda_=0.7,
        out=Buffer.from_numpy(out, dtype), counts_address=counts.ctypes.data, threads=1,
    )  # fmt: skip
    mask = values > threshold
    expected = sta_forget.forget_exact(case.finetuned32[1], case.base32, case.finetuned32[0], mask, 0.9, 0.7)
    np.testing.assert_array_equal(out.reshape(-1), stored(expected, dtype))
    assert counts[0] == 100 + mask.sum()


def test_forget_keeps_a_float64_target_where_nothing_is_subtracted():
    target = np.array([1 + 2.0**-40, -0.0, 5.0])
    other = Buffer.from_numpy(np.array([1.0, 1.0, 2.0]))
    source = ImportanceSource("lp", Buffer.from_numpy(np.float32([1, 1, 2])))
    buffer = Buffer.from_numpy(target)
    BACKEND.sta_forget(
        buffer, Buffer.from_numpy(np.zeros(3)), other, source,
        threshold=1.0, weight=1.0, lambda_=1.0, out=buffer, counts_address=0, threads=1,
    )  # fmt: skip
    assert target.tobytes() == np.array([1 + 2.0**-40, -0.0, 3.0]).tobytes()


@pytest.mark.usefixtures("parts_of_one_leaf")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_ranges_and_leaves(dtype, layout):
    case = Case(dtype, layout, shape=(3, 3000))
    sources = [
        ImportanceSource("lp_amp", *case.buffers(pair)) for pair in zip(case.importances, case.finetuned, strict=True)
    ]
    minmax = np.tile(np.float32([np.inf, -np.inf]), (4, 1))
    leaves = [np.full(3, np.nan) for _ in sources]
    BACKEND.ranges(sources, minmax, leaves, threads=1)
    for i in range(4):
        values = importance.lp_amp_exact(case.importances32[i], case.finetuned32[i])
        assert tuple(minmax[i]) == (values.min(), values.max())
        np.testing.assert_array_equal(leaves[i], statistics.leaf_sums_exact(values))
    before = minmax.copy()
    BACKEND.ranges(sources[:1], minmax[:1], None, threads=1)
    np.testing.assert_array_equal(minmax, before)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_taylor_accumulate(dtype, layout):
    case = Case(dtype, layout)
    total, gradient = case.importances[0], case.finetuned[0]
    expected = importance.accumulate_exact(case.importances32[0], case.finetuned32[0])
    BACKEND.taylor_accumulate(*case.buffers([total, gradient]), threads=1)
    np.testing.assert_array_equal(total.reshape(-1), stored(expected, dtype))


@pytest.mark.usefixtures("parts_of_one_leaf")
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("measure", ["lp", "amp", "lp_amp"])
def test_taylor_finish(dtype, measure, in_place):
    case = Case(dtype, shape=(5, 1000))
    total = case.importances[0]
    lp = importance.lp_exact(case.finetuned32[0], case.importances32[0])
    expected = stored(importance.measure_exact(measure, lp, case.finetuned32[0]), dtype)
    out = total if in_place else empty_output(case, dtype)
    minmax, leaves = np.float32([np.inf, -np.inf]), np.full(2, np.nan)
    buffers = case.buffers([total, case.finetuned[0], out])
    BACKEND.taylor_finish(
        buffers[0], buffers[1], measure=measure, out=buffers[2], minmax=minmax, leaves=leaves, threads=1
    )
    np.testing.assert_array_equal(out.reshape(-1), expected)
    written = loaded(expected, dtype)
    assert tuple(minmax) == (written.min(), written.max())
    np.testing.assert_array_equal(leaves, statistics.leaf_sums_exact(written))


def test_the_callers_flush_to_zero_changes_no_bit():
    torch = pytest.importorskip("torch")
    case = Case()
    case.base *= np.float32(1e-39)
    case.importances = [array * np.float32(1e-44) for array in case.importances]
    case.finetuned = [array * np.float32(1e-39) for array in case.finetuned]
    case.normaliser = np.float32([[0, 1e-43]] * 4)
    expected, mask = case.merged32()
    assert mask.any()
    out = empty_output(case, DType.F32)
    torch.set_flush_denormal(True)
    try:
        case.merge(out, DType.F32)
    finally:
        torch.set_flush_denormal(False)
    np.testing.assert_array_equal(out.reshape(-1).view(np.uint32), expected.view(np.uint32))
