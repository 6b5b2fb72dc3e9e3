"""Weighted sums of models: every bit that of the reference, all tensors of a model in one launch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_operands import SIZES, Operand, values

from sta_kernels.kernels.buffers import DType
from sta_kernels.kernels.numpy_backend import NumpyBackend
from sta_kernels.kernels.triton import weighted_sum
from sta_kernels.kernels.triton.config import LaunchConfig
from sta_kernels.kernels.triton.weighted_sum import SumSegment, launch_weighted_sum

DEVICE = torch.device("cpu")
BLOCKS = LaunchConfig(block=256, chunk=1024, warps=1)
F32, BF16, F16, F64 = DType.F32, DType.BF16, DType.F16, DType.F64


def check(
    tensors: list[tuple[Operand | None, list[Operand], Operand]],
    config: LaunchConfig | None = BLOCKS,
    *,
    weights: list[float],
    divisor: float = 1.0,
    lambda_: float = 1.0,
) -> None:
    """Launch, and hold every output against the reference's; an output may be one of the operands."""
    segments, expected = [], []
    for base, models, out in tensors:
        start = None if base is None else base.buffer()
        segments.append(SumSegment(start, tuple(model.buffer() for model in models), out.buffer()))
        expected.append(Operand(out.dtype, out.size))
        NumpyBackend().weighted_sum(
            start,
            segments[-1].models,
            weights=weights,
            divisor=divisor,
            lambda_=lambda_,
            out=expected[-1].buffer(),
            threads=1,
        )
    launch_weighted_sum(DEVICE, segments, weights=weights, divisor=divisor, lambda_=lambda_, config=config)
    for reference, (_, _, out) in zip(expected, tensors, strict=True):
        assert np.array_equal(out.bits(), reference.bits())
        assert out.guards_hold()


def tensors(
    base: DType | None, model: DType, out: DType, n: int, sizes: tuple[int, ...] = SIZES, special: float = 0.02
) -> list[tuple[Operand | None, list[Operand], Operand]]:
    """One tensor of each size."""
    rng = np.random.default_rng(n)
    return [
        (
            None if base is None else values(rng, base, size, special=special),
            [values(rng, model, size, special=special) for _ in range(n)],
            Operand(out, size),
        )
        for size in sizes
    ]


@pytest.mark.parametrize(
    ("base", "model", "out", "n"),
    [
        (F32, F32, F32, 1),
        (None, F32, F32, 2),
        (BF16, BF16, BF16, 3),
        (None, BF16, F32, 6),
        (F16, F32, F64, 4),
        (F64, F64, F64, 2),
        (None, F64, F16, 16),
        (F32, F16, BF16, 8),
        (F32, BF16, F32, 17),
        (None, F32, BF16, 24),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_size_in_one_launch(base: DType | None, model: DType, out: DType, n: int) -> None:
    weights = [0.1 * (i + 1) * (-1) ** (i // 3) for i in range(n)]
    check(tensors(base, model, out, n), weights=weights, divisor=0.7, lambda_=0.3)


@pytest.mark.parametrize("base", [None, F32], ids=["plain", "base"])
@pytest.mark.parametrize(
    ("weight", "divisor", "lambda_"),
    [(1.0, 1.0, 1.0), (1.0, 3.0, 1.0), (1.0, 0.0, 0.4), (0.5, 1.0, 1.0), (1.0, 1e-46, 1.0), (2.0, 1e-39, 1e-30)],
)
def test_factors_of_one_and_zero(base: DType | None, weight: float, divisor: float, lambda_: float) -> None:
    check(
        tensors(base, F32, F32, 3, (0, 7, 300), special=0.3),
        weights=[weight, 1.0, weight],
        divisor=divisor,
        lambda_=lambda_,
    )


def test_negative_zeros_become_positive_in_the_sum() -> None:
    base, models, out = Operand(F32, 5), [Operand(F32, 5), Operand(F32, 5)], Operand(F32, 5)
    for operand in (base, *models):
        operand.array[:] = -0.0
    check([(None, models, out)], weights=[1.0, 1.0])
    assert not np.signbit(out.array).any()
    check([(base, models, out)], weights=[1.0, 1.0])


@pytest.mark.parametrize("n", [3, 18])
def test_signatures_mixed_and_off_the_16_byte_grid(n: int) -> None:
    rng = np.random.default_rng(0)
    mixed = []
    for shift, dtypes in ((0, (F32,)), (1, (F32,)), (0, (F32, BF16)), (3, (BF16, F64, F16)), (0, (F32,))):
        models = [values(rng, dtypes[i % len(dtypes)], 300, shift=shift * (i % 2)) for i in range(n)]
        mixed.append((values(rng, F32, 300, shift=shift), models, Operand(F32, 300, shift)))
    check(mixed, weights=[1 / (i + 1) for i in range(n)])


def test_the_output_may_be_an_operand() -> None:
    rng = np.random.default_rng(1)
    for place in range(3):
        operands = [values(rng, F32, 600) for _ in range(3)]
        check([(operands[0], operands[1:], operands[place])], weights=[0.5, -1.5])


def test_the_launch_that_is_chosen() -> None:
    check(tensors(None, BF16, BF16, 5, (3000, 0, 1)), None, weights=[1.0] * 5, divisor=5.0)
    launch_weighted_sum(DEVICE, [], weights=[], divisor=1.0, lambda_=1.0)


def test_only_contiguous_buffers() -> None:
    column = Operand(F32, 8).buffer()
    column.shape, column.strides = (2,), (16,)
    whole = Operand(F32, 2).buffer()
    with pytest.raises(ValueError, match="contiguous"):
        launch_weighted_sum(DEVICE, [SumSegment(None, (column,), whole)], weights=[1.0], divisor=1.0, lambda_=1.0)


def test_more_models_than_registers_hold_are_taken_in_groups() -> None:
    assert weighted_sum.MOST_IN_REGISTERS >= 16
    n = weighted_sum.MOST_IN_REGISTERS + 1
    check(tensors(F32, F32, F32, n, (700,)), weights=[1.0] * n, lambda_=0.4)
