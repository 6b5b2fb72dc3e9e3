"""The NumPy backend's reductions, streamed and whole, and what it imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sta_kernels.kernels import reference
from sta_kernels.kernels.buffers import Buffer, DType, ImportanceSource
from sta_kernels.kernels.numpy_backend import NumpyBackend
from sta_kernels.kernels.reference import dtypes, statistics
from sta_kernels.methods.statistics import Mean, OrderStatistic, Range
from sta_kernels.methods.subjects import Importance

BACKEND = NumpyBackend()
pytestmark = pytest.mark.usefixtures("parts_of_one_leaf")


def stored(values, dtype):
    values = np.asarray(values, np.float32)
    if dtype is DType.BF16:
        return dtypes.float32_to_bfloat16(values)
    return values.astype(dtype.numpy)


def test_a_nan_sticks_to_a_range():
    values = np.float32([1, np.nan, 3])
    minmax = np.array([[np.inf, -np.inf]], np.float32)
    BACKEND.ranges([ImportanceSource("lp", Buffer.from_numpy(values))], minmax, None, threads=1)
    BACKEND.ranges([ImportanceSource("lp", Buffer.from_numpy(values[:1]))], minmax, None, threads=1)
    assert np.isnan(minmax).all()


def test_order_statistic_in_the_buffers_own_dtype():
    values = np.array([1 + 2.0**-50, 1.0, 1 + 2.0**-52, np.nan, -0.0, 0.0, -np.inf])
    buffer = Buffer.from_numpy(values)
    ordered = [BACKEND.order_statistic_exact(buffer, k, threads=1) for k in range(1, 8)]
    assert np.array(ordered).tobytes() == np.sort(values).tobytes()
    assert BACKEND.order_statistic(ImportanceSource("lp", buffer), 6, threads=1) == 1.0
    for dtype in (DType.F32, DType.BF16, DType.F16):
        narrow = Buffer.from_numpy(stored([3, 1, 2], dtype), dtype)
        assert BACKEND.order_statistic_exact(narrow, 2, threads=1) == 2
    for k in (0, 8):
        with pytest.raises(ValueError, match=f"k = {k}"):
            BACKEND.order_statistic_exact(buffer, k, threads=1)


def test_statistics_streamed_over_tiles_equal_those_of_the_whole():
    values = np.random.default_rng(0).lognormal(0, 3, 20_000).astype(np.float32)
    values[::7] = values[0]
    results = []
    for statistic in (
        Range(Importance(0, "lp")),
        Mean(Importance(0, "lp")),
        OrderStatistic(Importance(0, "lp"), 14_000),
    ):
        accumulator = statistic.accumulator(values.size, values.size)
        done = False
        while not done:
            for start in (8192, 0, 16384):
                tile = values[start : start + 8192]
                source = ImportanceSource("lp", Buffer.from_numpy(tile))
                accumulator.take(BACKEND, source, start, tile.size, threads=1)()
            done = accumulator.end_of_pass()
        results.append(accumulator.result)
    assert results[0] == (values.min(), values.max())
    assert results[1] == statistics.mean_exact(values)
    assert results[2] == np.partition(values, 13_999)[13_999]


@pytest.mark.parametrize("dtype", tuple(DType))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_first_nonfinite(dtype, bad):
    arrays = [np.zeros((2, 5000), np.float32) for _ in range(3)]
    arrays[1][1, 17], arrays[1][1, 18], arrays[2][0, 0] = bad, bad, bad
    buffers = [Buffer.from_numpy(np.asfortranarray(stored(array, dtype)), dtype) for array in arrays]
    assert BACKEND.first_nonfinite(buffers) == (1, 5017)
    assert BACKEND.first_nonfinite(buffers[:1]) is None


def test_a_float64_beyond_float32_is_not_finite_to_a_kernel():
    assert BACKEND.first_nonfinite([Buffer.from_numpy(np.array([1.0, 1e300]))]) == (0, 1)


def test_the_backend_needs_no_torch():
    program = "import sys, sta_kernels.kernels.numpy_backend; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_reference_imports_nothing_else_of_the_package():
    folder = Path(reference.__file__).parent
    assert len(list(folder.glob("*.py"))) > 5
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sta_kernels"):
                assert node.module.startswith("sta_kernels.kernels.reference"), path.name
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("sta_kernels") for alias in node.names), path.name
