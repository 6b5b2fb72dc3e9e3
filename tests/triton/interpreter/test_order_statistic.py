"""Radix selection on the device: the exact k-th smallest, many tensors per launch, no host between the passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_operands import SPECIAL, same_floats, values

from sta_kernels.kernels.buffers import Buffer, DType, ImportanceSource
from sta_kernels.kernels.numpy_backend import NumpyBackend
from sta_kernels.kernels.triton.config import LaunchConfig
from sta_kernels.kernels.triton.order_statistic import (
    histogram_config,
    launch_histogram,
    launch_order_statistic,
    launch_order_statistic_exact,
)
from sta_kernels.kernels.triton.sources import Signature

# Overflow and NaN are among the operands, and the interpreter is NumPy.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DEVICE = torch.device("cpu")
REFERENCE = NumpyBackend()
BLOCKS = LaunchConfig(block=128, chunk=256, warps=1)
F32, BF16, F16, F64 = DType.F32, DType.BF16, DType.F16, DType.F64
SIZES = (1, 7, 63, 64, 65, 1000)


def select(tensors: list[ImportanceSource], ks: list[int], config: LaunchConfig | None = BLOCKS) -> None:
    """Hold a launch against the reference."""
    found = launch_order_statistic(DEVICE, tensors, ks, config=config)
    reference = [REFERENCE.order_statistic(tensor, k, threads=1) for tensor, k in zip(tensors, ks, strict=True)]
    assert same_floats(found.numpy(), np.array(reference, np.float32))


def select_exactly(buffers: list[Buffer], ks: list[int], config: LaunchConfig | None = BLOCKS) -> None:
    """Hold a launch against the reference, in the buffers' own dtypes."""
    found = launch_order_statistic_exact(DEVICE, buffers, ks, config=config)
    reference = [REFERENCE.order_statistic_exact(buffer, k, threads=1) for buffer, k in zip(buffers, ks, strict=True)]
    assert same_floats(found.numpy(), np.array(reference))


@pytest.mark.parametrize("special", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [F32, BF16, F16, F64], ids=lambda dtype: dtype.name)
def test_every_dtype_and_size(dtype: DType, special: float) -> None:
    rng = np.random.default_rng(1)
    operands = [values(rng, dtype, size, special=special, shift=shift) for shift, size in enumerate(SIZES)]
    ks = [int(rng.integers(1, size + 1)) for size in SIZES]
    buffers = [operand.buffer() for operand in operands]
    select([ImportanceSource("lp", buffer) for buffer in buffers], ks)
    select_exactly(buffers, ks)


def test_every_rank_of_special_values() -> None:
    array = np.concatenate([SPECIAL, SPECIAL[:4], np.array([1, 1, 2, -2], np.float32)])
    ranks = list(range(1, len(array) + 1))
    select([ImportanceSource("lp", Buffer.from_numpy(array))] * len(array), ranks)
    for other in (array.astype(np.float64), array.astype(np.float16)):
        select_exactly([Buffer.from_numpy(other)] * len(other), ranks)
    brain = (array.view(np.uint32) >> 16).astype(np.uint16)
    select_exactly([Buffer.from_numpy(brain, BF16)] * len(brain), ranks)


def test_signatures_and_widths_together() -> None:
    rng = np.random.default_rng(2)
    pairs = [("lp", BF16, F32), ("amp", F32, BF16), ("lp", F64, F32), ("lp_amp", F32, F16), ("lp", F32, F32)] * 2
    tensors = [
        ImportanceSource(
            measure, values(rng, importance, size).buffer(), values(rng, theta, size, shift=size % 2).buffer()
        )
        for (measure, importance, theta), size in zip(pairs, (300, 257, 64, 129, 5, 1, 256, 90, 33, 128), strict=True)
    ]
    select(tensors, [tensor.size * 7 // 10 or 1 for tensor in tensors])
    buffers = [tensor.importance for tensor in tensors if tensor.importance is not None]
    select_exactly(buffers, [buffer.size // 2 or 1 for buffer in buffers])


@pytest.mark.parametrize("k", [1, 400, 401, 500, 501, 900])
def test_ties(k: int) -> None:
    array = np.repeat(np.array([-0.0, 0.0, 5.0], np.float32), (400, 100, 400))
    np.random.default_rng(3).shuffle(array)
    select([ImportanceSource("lp", Buffer.from_numpy(array))], [k])


def test_neighbours_that_differ_in_the_last_bit() -> None:
    narrow = np.arange(600, dtype=np.uint32) + np.float32(1).view(np.uint32)
    wide = np.arange(600, dtype=np.uint64) + np.float64(-1).view(np.uint64)
    select_exactly([Buffer.from_numpy(narrow.view(np.float32))] * 3, [1, 300, 600])
    select_exactly([Buffer.from_numpy(wide.view(np.float64))] * 3, [1, 299, 600])


def test_float64_is_narrowed_unless_exact() -> None:
    buffer = Buffer.from_numpy(np.array([1 + 2.0**-40, 1, 1 - 2.0**-40]))
    assert launch_order_statistic(DEVICE, [ImportanceSource("lp", buffer)], [3]).tolist() == [1]
    assert launch_order_statistic_exact(DEVICE, [buffer], [3]).tolist() == [1 + 2.0**-40]


def test_ranks_on_the_device_and_outside_the_tensor() -> None:
    buffer = Buffer.from_numpy(np.array([3, 1, 2], np.float32))
    nothing = Buffer.from_numpy(np.array([], np.float32))
    tensors = [ImportanceSource("lp", each) for each in (buffer, buffer, buffer, buffer, nothing)]
    ks = torch.tensor([0, 4, 3, -1, 1])
    found = launch_order_statistic(DEVICE, tensors, ks).tolist()
    assert found[2] == 3
    assert np.isnan(np.delete(found, 2)).all()
    assert np.isnan(launch_order_statistic_exact(DEVICE, [nothing], [1]).tolist()).all()
    assert launch_order_statistic(DEVICE, [], []).shape == (0,)


def test_launch_as_chosen() -> None:
    rng = np.random.default_rng(4)
    select([ImportanceSource("lp", values(rng, F32, 9000).buffer())], [6300], config=None)


@pytest.mark.parametrize("measure", ["lp", "amp", "lp_amp"])
@pytest.mark.parametrize("importance", [F32, BF16], ids=lambda dtype: dtype.name)
def test_histogram(measure: str, importance: DType) -> None:
    rng = np.random.default_rng(5)
    operands = (values(rng, importance, 700, special=0.1), values(rng, F32, 700, special=0.1))
    source = ImportanceSource(measure, *(operand.buffer() for operand in operands))
    for prefix, prefix_bits, digit_bits in ((0, 0, 11), (0b1011111111, 10, 11), (1, 1, 12), (0, 31, 1), (1, 1, 1)):
        counts = np.zeros(1 << digit_bits, np.uint64)
        digit = {"prefix": prefix, "prefix_bits": prefix_bits, "digit_bits": digit_bits}
        REFERENCE.histogram(source, **digit, counts=counts, threads=1)
        found = launch_histogram(DEVICE, source, *digit.values(), config=BLOCKS)
        assert np.array_equal(found.numpy().astype(np.uint64), counts)


def test_histogram_of_a_wide_digit() -> None:
    source = ImportanceSource("lp", values(np.random.default_rng(6), F32, 500).buffer())
    counts = np.zeros(1 << 16, np.uint64)
    REFERENCE.histogram(source, prefix=0, prefix_bits=0, digit_bits=16, counts=counts, threads=1)
    found = launch_histogram(DEVICE, source, 0, 0, 16, config=LaunchConfig(512, 512, 1))
    assert np.array_equal(found.numpy().astype(np.uint64), counts)
    assert counts.max() < 500  # more than one digit occurs


@pytest.mark.parametrize(("prefix_bits", "digit_bits"), [(22, 11), (0, 33), (5, 0), (-1, 8)])
def test_histogram_beyond_a_key(prefix_bits: int, digit_bits: int) -> None:
    source = ImportanceSource("lp", Buffer.from_numpy(np.ones(3, np.float32)))
    with pytest.raises(ValueError, match="a key has 32"):
        launch_histogram(DEVICE, source, 0, prefix_bits, digit_bits)


def test_chosen_launch_amortises_the_bins() -> None:
    for dtype in (F32, BF16, F16, F64):
        config = histogram_config(Signature("lp", dtype, None, True), 10**9)
        assert config.block >= 2 * 2048
        assert config.per_thread * dtype.itemsize >= 16
