"""Forgetting in one launch for all tensors: every bit that of the reference."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from kernel_operands import SIZES, Operand, values

from sta_kernels.kernels.buffers import Buffer, DType, ImportanceSource
from sta_kernels.kernels.numpy_backend import NumpyBackend
from sta_kernels.kernels.triton.config import LaunchConfig
from sta_kernels.kernels.triton.sta_forget import ForgetSegment, launch_sta_forget

# Overflow and NaN are among the operands, and the interpreter is NumPy.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DEVICE = torch.device("cpu")
REFERENCE = NumpyBackend()
BLOCKS = LaunchConfig(block=128, chunk=256, warps=1)
F32, BF16, F16, F64 = DType.F32, DType.BF16, DType.F16, DType.F64


class Forgetting:
    """Operands of one tensor; ``dtypes`` of target (None: the base), base, finetuned, importance, out."""

    def __init__(
        self, rng: np.random.Generator, dtypes: tuple[DType | None, ...], size: int, *, special: float, shift: int
    ) -> None:
        given = [None if d is None else values(rng, d, size, special=special, shift=shift) for d in dtypes[:4]]
        target, self.base, self.finetuned, self.importance = given
        assert self.base is not None
        self.target = target or self.base
        self.out = Operand(dtypes[4] or F32, size, shift)
        self.expected = self.out.copy()

    def segment(self) -> ForgetSegment:
        """As the launch takes it."""
        operands = (self.target, self.base, self.finetuned, self.importance, self.out)
        return ForgetSegment(*(operand.buffer() for operand in operands))

    def forget(self, measure: str, threshold: float, weight: float, lambda_: float) -> int:
        """The reference's result into ``expected``; how many entries it selected."""
        selected = ctypes.c_int64(0)
        REFERENCE.sta_forget(
            *(operand.buffer() for operand in (self.target, self.base, self.finetuned)),
            ImportanceSource(measure, self.importance.buffer(), self.finetuned.buffer()),
            threshold=threshold, weight=weight, lambda_=lambda_, out=self.expected.buffer(),
            counts_address=ctypes.addressof(selected), threads=1,
        )  # fmt: skip
        return selected.value

    def check(self) -> None:
        """Equal bits, and nothing else written."""
        assert np.array_equal(self.out.bits(), self.expected.bits())
        for operand in (self.target, self.base, self.finetuned, self.importance, self.out):
            assert operand.guards_hold()


def check(
    tensors: list[Forgetting], thresholds: list[float], measure: str = "lp", config: LaunchConfig | None = BLOCKS
) -> None:
    """Hold a launch against the reference, with factors that round and without counts as well."""
    for weight, lambda_, counted in ((1.0, 1.0, True), (0.7, 1 / 3, False)):
        kept = [t.forget(measure, s, weight, lambda_) for t, s in zip(tensors, thresholds, strict=True)]
        counts = torch.arange(len(tensors)) if counted else None
        launch_sta_forget(
            DEVICE,
            [tensor.segment() for tensor in tensors],
            thresholds=torch.tensor(thresholds, dtype=torch.float32),
            measure=measure,
            weight=weight,
            lambda_=lambda_,
            counts=counts,
            config=config,
        )
        for tensor in tensors:
            tensor.check()
        if counts is not None:
            assert (counts - torch.arange(len(tensors))).tolist() == kept


DTYPES = [
    (None, F32, F32, F32, F32),
    (F32, F32, F32, BF16, F32),
    (None, BF16, BF16, F32, BF16),
    (BF16, BF16, BF16, BF16, BF16),
    (F16, F16, F16, F16, F16),
    (None, F64, F64, F64, F64),
    (F64, F32, BF16, F32, F64),
    (F32, F64, F16, F32, F16),
]


@pytest.mark.parametrize("special", [0.0, 0.2])
@pytest.mark.parametrize("measure", ["lp", "amp", "lp_amp"])
def test_every_signature_in_one_call(measure: str, special: float) -> None:
    rng = np.random.default_rng(1)
    tensors = [
        Forgetting(rng, dtypes, size, special=special, shift=index % 2)
        for index, (dtypes, size) in enumerate(zip(DTYPES * 2, (300, 257, 1, 128, 129, 65, 256, 400) * 2, strict=True))
    ]
    check(tensors, [0.01 * index for index in range(len(tensors))], measure)


@pytest.mark.parametrize("config", [BLOCKS, None], ids=["small", "chosen"])
def test_every_size(config: LaunchConfig | None) -> None:
    rng = np.random.default_rng(2)
    tensors = [Forgetting(rng, DTYPES[0], size, special=0.05, shift=0) for size in SIZES[:-1]]
    check(tensors, [0.1] * len(tensors), config=config)


def test_thresholds() -> None:
    """The importance must exceed it: infinities, equal zeros of both signs, and NaN, which nothing exceeds."""
    rng = np.random.default_rng(3)
    thresholds = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 65520.0]
    check([Forgetting(rng, DTYPES[1], 150, special=0.8, shift=0) for _ in thresholds], thresholds)


@pytest.mark.parametrize("dtype", [F32, F64], ids=lambda dtype: dtype.name)
def test_what_is_not_selected_stays_as_it_is(dtype: DType) -> None:
    target = np.array([-0.0, 1 + 2.0**-50, 1e300, -1e-320, 7], dtype.numpy)
    base, model = Buffer.from_numpy(np.ones(5)), Buffer.from_numpy(np.array([2.0, 3, 4, 5, 6]))
    importance, out = Buffer.from_numpy(np.array([0, 0, 0, 0, 1], np.float32)), np.full(5, np.nan)
    segment = ForgetSegment(Buffer.from_numpy(target), base, model, importance, Buffer.from_numpy(out))
    launch_sta_forget(
        DEVICE, [segment], thresholds=torch.tensor([0.5]), measure="lp", weight=1.0, lambda_=1.0, config=BLOCKS
    )
    expected = target.astype(np.float64)
    expected[4] = 7 - 5
    assert out.view(np.uint64).tolist() == expected.view(np.uint64).tolist()


@pytest.mark.parametrize("dtype", [F32, BF16], ids=lambda dtype: dtype.name)
def test_in_place(dtype: DType) -> None:
    rng = np.random.default_rng(4)
    tensor = Forgetting(rng, (None, dtype, dtype, F32, dtype), 700, special=0.1, shift=1)
    kept = tensor.forget("lp", 0.2, 0.5, 1.0)
    assert 0 < kept < 700
    tensor.out = tensor.base
    launch_sta_forget(
        DEVICE,
        [tensor.segment()],
        thresholds=torch.tensor([0.2]),
        measure="lp",
        weight=0.5,
        lambda_=1.0,
        config=BLOCKS,
    )
    tensor.check()


def test_what_cannot_be_launched() -> None:
    rng = np.random.default_rng(5)
    segment = Forgetting(rng, DTYPES[0], 64, special=0, shift=0).segment()
    common = {"thresholds": torch.zeros(1), "weight": 1.0, "lambda_": 1.0}
    bare = ForgetSegment(segment.target, segment.base, segment.finetuned, None, segment.out)
    with pytest.raises(ValueError, match="reads an importance"):
        launch_sta_forget(DEVICE, [bare], measure="lp_amp", **common)
    launch_sta_forget(DEVICE, [bare], measure="amp", **common)
    short = ForgetSegment(segment.target, segment.base, segment.finetuned, None, segment.out.slice(0, 8))
    with pytest.raises(ValueError, match="differ in size"):
        launch_sta_forget(DEVICE, [short], measure="amp", **common)
    array = np.ones((8, 16), np.float32)
    strided = ForgetSegment(segment.target, Buffer.from_numpy(array[:, ::2]), segment.finetuned, None, segment.out)
    with pytest.raises(ValueError, match="contiguous"):
        launch_sta_forget(DEVICE, [strided], measure="amp", **common)


def test_no_tensor_at_all() -> None:
    launch_sta_forget(DEVICE, [], thresholds=torch.zeros(0), measure="lp", weight=1.0, lambda_=1.0)
