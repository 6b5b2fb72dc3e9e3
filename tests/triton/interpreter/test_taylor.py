"""Accumulating and finishing a Taylor importance: every bit that of the reference, many parameters per launch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_operands import SIZES, Operand, same_floats, values

from sta_kernels.kernels.buffers import DType
from sta_kernels.kernels.numpy_backend import NumpyBackend
from sta_kernels.kernels.triton import taylor
from sta_kernels.kernels.triton.config import LaunchConfig
from sta_kernels.kernels.triton.taylor import FinishItem, launch_taylor_accumulate, launch_taylor_finish

DEVICE = torch.device("cpu")
REFERENCE = NumpyBackend()
BLOCKS = LaunchConfig(block=128, chunk=512, warps=1)
LEAVES = LaunchConfig(block=2 * 32 * 8, chunk=2 * 4096, warps=1)
F32, BF16, F16, F64 = DType.F32, DType.BF16, DType.F16, DType.F64


def accumulate(pairs: list[tuple[Operand, Operand]], config: LaunchConfig | None = BLOCKS) -> None:
    """Launch, and hold every total against the reference's."""
    expected = [total.copy() for total, _ in pairs]
    for total, (_, grad) in zip(expected, pairs, strict=True):
        REFERENCE.taylor_accumulate(total.buffer(), grad.buffer(), threads=1)
    launch_taylor_accumulate(DEVICE, [(total.buffer(), grad.buffer()) for total, grad in pairs], config=config)
    for reference, (total, grad) in zip(expected, pairs, strict=True):
        assert np.array_equal(total.bits(), reference.bits())
        assert total.guards_hold()
        assert grad.guards_hold()


def finish(items: list[tuple[Operand, Operand, Operand]], measure: str, config: LaunchConfig | None = LEAVES) -> None:
    """Launch, and hold every importance, range and leaf sum against the reference's."""
    expected = []
    for total, param, out in items:
        twin = total.copy()
        result = twin if out is total else out.copy()
        minmax = np.array((np.inf, -np.inf), np.float32)
        leaves = np.empty(-(-total.size // 4096))
        buffers = (twin.buffer(), param.buffer())
        REFERENCE.taylor_finish(*buffers, measure=measure, out=result.buffer(), minmax=minmax, leaves=leaves, threads=1)
        expected.append((result, minmax, leaves))
    launched = [FinishItem(*(operand.buffer() for operand in item)) for item in items]
    minmax, leaves = launch_taylor_finish(DEVICE, launched, measure=measure, config=config)
    assert minmax.shape == (len(items), 2)
    for i, (result, ends, sums) in enumerate(expected):
        out = items[i][2]
        assert np.array_equal(out.bits(), result.bits())
        assert out.guards_hold()
        assert same_floats(minmax[i].numpy(), ends), (minmax[i], ends)
        assert same_floats(leaves[i].numpy(), sums)


@pytest.mark.parametrize(
    ("total", "grad"),
    [(F32, F32), (F32, BF16), (F32, F16), (F32, F64), (BF16, BF16), (BF16, F32), (F16, F16), (F64, BF16), (F64, F64)],
    ids=lambda dtype: dtype.name,
)
def test_accumulating_parameters_of_every_size_in_one_launch(total: DType, grad: DType) -> None:
    rng = np.random.default_rng(0)
    accumulate([(values(rng, total, n, special=0.05), values(rng, grad, n, special=0.05)) for n in SIZES[:-1]])


def test_samples_add_up_in_order() -> None:
    rng = np.random.default_rng(1)
    totals = [Operand(BF16, 300), Operand(F32, 65)]
    for total in totals:
        total.array[:] = 0
    for _ in range(4):
        accumulate([(total, values(rng, F32, total.size)) for total in totals])


def test_accumulating_off_the_16_byte_grid_beside_aligned_ones_and_other_dtypes() -> None:
    rng = np.random.default_rng(2)
    accumulate(
        [
            (values(rng, F32, 700), values(rng, F32, 700)),
            (values(rng, F32, 700, shift=1), values(rng, F32, 700)),
            (values(rng, F32, 130), values(rng, BF16, 130, shift=3)),
            (values(rng, BF16, 257, shift=5), values(rng, BF16, 257, shift=1)),
        ]
    )


def test_accumulating_with_the_launch_that_is_chosen() -> None:
    rng = np.random.default_rng(3)
    accumulate([(values(rng, F32, n), values(rng, BF16, n)) for n in (5000, 0, 33)], config=None)
    launch_taylor_accumulate(DEVICE, [])


@pytest.mark.parametrize(
    ("measure", "total", "param", "out"),
    [
        ("lp", F32, F32, F32),
        ("lp", F32, BF16, None),
        ("lp", BF16, BF16, None),
        ("lp_amp", F32, F16, BF16),
        ("lp_amp", F16, F32, F64),
        ("amp", F32, BF16, None),
        ("amp", BF16, F64, F32),
        ("lp", F64, F64, F16),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_finishing_parameters_of_every_size_in_one_launch(
    measure: str, total: DType, param: DType, out: DType | None
) -> None:
    rng = np.random.default_rng(4)
    items = []
    sizes = SIZES if out is None and measure != "amp" else SIZES[:-1]
    for i, n in enumerate(sizes):
        sums = values(rng, total, n, special=0.02 * (i % 2))
        weights = values(rng, param, n, special=0.02 * (i % 3 == 1))
        items.append((sums, weights, sums if out is None else Operand(out, n)))
    finish(items, measure)


def test_finishing_off_the_16_byte_grid_beside_aligned_ones() -> None:
    rng = np.random.default_rng(5)
    items = []
    for n, shifts in ((200, (0, 0)), (200, (1, 0)), (500, (0, 3)), (31, (2, 1))):
        sums, weights = (values(rng, F32, n, shift=shift) for shift in shifts)
        items.append((sums, weights, sums))
    finish(items, "lp")


@pytest.mark.parametrize("sign", [0.0, -0.0])
def test_ranges_of_zeros_keep_their_sign_and_of_one_nan_are_nan(sign: float) -> None:
    rng = np.random.default_rng(6)
    items = []
    for _ in range(3):
        sums, weights = values(rng, F32, 97), values(rng, F32, 97)
        items.append((sums, weights, sums))
    items[0][0].array[:] = sign
    items[1][0].array[:] = sign
    items[1][0].array[40] = -sign
    items[2][0].array[96] = np.nan
    finish(items, "lp")


def test_negative_sums_and_infinities_in_a_later_chunk() -> None:
    rng = np.random.default_rng(7)
    items = []
    for special in (np.inf, -np.inf, np.nan):
        sums, weights = values(rng, F32, 4100), values(rng, F32, 4100)
        sums.array[:] = -np.abs(sums.array)
        sums.array[4099] = special
        items.append((sums, weights, sums))
    finish(items, "lp", LaunchConfig(block=32 * 8, chunk=4096, warps=1))


def test_finishing_with_the_launch_that_is_chosen() -> None:
    rng = np.random.default_rng(8)
    items = [(values(rng, F32, n), values(rng, BF16, n), Operand(F32, n)) for n in (5000, 0, 33)]
    finish(items, "lp_amp", config=None)
    minmax, leaves = launch_taylor_finish(DEVICE, [], measure="lp")
    assert minmax.shape == (0, 2)
    assert leaves == []


def test_only_contiguous_buffers() -> None:
    column = Operand(F32, 8).buffer()
    column.shape, column.strides = (2,), (16,)
    with pytest.raises(ValueError, match="contiguous"):
        launch_taylor_accumulate(DEVICE, [(column, column)])
    with pytest.raises(ValueError, match="contiguous"):
        launch_taylor_finish(DEVICE, [FinishItem(column, column, column)], measure="lp")


def test_the_chosen_launch_reads_whole_rows_of_leaves() -> None:
    for sizes in ([4, 4, 4], [4, 2, 4], [2, 2, 2], [8, 8, 8]):
        config = taylor._finish_config(sizes)
        n_leaves = config.chunk // 4096
        assert config.chunk == n_leaves * 4096
        assert 128 % (config.block // (32 * n_leaves)) == 0
