"""The merge kernel in the interpreter, bit for bit against the float32 reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from division_cases import fma
from hardware import as_compiled
from kernel_cases import KINDS, POSITIVE_QUOTIENTS, SUBNORMAL_QUOTIENTS, MergeCase, run_merge
from kernel_operands import Operand
from merge_launch import CPU, SMALL, launch

from sta_kernels.kernels.buffers import Buffer, DType
from sta_kernels.kernels.numpy_backend import NumpyBackend
from sta_kernels.kernels.triton import networks, sta_merge, sta_merge_constants, sta_merge_zeros
from sta_kernels.kernels.triton.config import LaunchConfig

SIZES = (0, 1, 63, 65, 200)
ALL_KINDS = (*KINDS, POSITIVE_QUOTIENTS, SUBNORMAL_QUOTIENTS)


def same_as_reference(cases: Sequence[MergeCase], **options: object) -> bool:
    """Whether outputs and counters of one launch are those of the reference."""
    outputs, counts = launch(cases, **options)
    for case, output, counted in zip(cases, outputs, counts, strict=True):
        expected, expected_counts = run_merge(NumpyBackend(), case)
        wanted = Operand(case.weight_dtype, case.n)
        wanted.array[:] = expected
        if counted != expected_counts or not np.array_equal(output.bits(), wanted.bits()):
            return False
    return True


def draw(n_tasks: int, sizes: Sequence[int], kind: str, k: int, weight=DType.F32, importance=DType.F32, **parameters):
    """One case per size."""
    return [MergeCase.draw(n_tasks, n, weight, importance, kind, k, seed=i, **parameters) for i, n in enumerate(sizes)]


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("n_tasks", [6])
def test_many_tensors_in_one_launch(n_tasks: int, kind: str) -> None:
    k = 1 + (n_tasks - 1) * 7 // 10
    assert same_as_reference(draw(n_tasks, SIZES, kind, k))


@pytest.mark.parametrize("n_tasks", range(1, 17))
def test_every_number_of_tasks(n_tasks: int) -> None:
    """Kinds and ranks that hold ties which only a correctly rounded division makes."""
    for k in sorted({1, (7 * n_tasks) // 10, n_tasks}):
        assert same_as_reference(draw(n_tasks, (100,), POSITIVE_QUOTIENTS, k)), k


@pytest.mark.parametrize("n_tasks", [17, 20, 33])
@pytest.mark.parametrize("ties", ["drop", "all", "first"])
def test_more_tasks_than_registers_hold(n_tasks: int, ties: str) -> None:
    assert same_as_reference(draw(n_tasks, (70,), "ties", n_tasks * 2 // 3, ties=ties))


@pytest.mark.parametrize("ties", ["drop", "all", "first"])
@pytest.mark.parametrize("kind", ["ties", "edges", "constant"])
def test_rules_for_ties(kind: str, ties: str) -> None:
    for k in (0, 2, 4, 5):
        assert same_as_reference(draw(5, (100,), kind, k, ties=ties)), k


@pytest.mark.parametrize(
    ("weight", "importance"),
    [
        (DType.BF16, DType.F32),
        (DType.BF16, DType.BF16),
        (DType.F16, DType.F16),
        (DType.F16, DType.BF16),
        (DType.F64, DType.F32),
        (DType.F32, DType.F64),
    ],
)
@pytest.mark.parametrize("kind", ["plain", "edges"])
def test_dtypes(weight: DType, importance: DType, kind: str) -> None:
    assert same_as_reference(draw(4, (1, 65, 300), kind, 3, weight, importance))


@pytest.mark.parametrize("measure", ["amp", "lp_amp"])
@pytest.mark.parametrize("weights", [None, [0.5, -2.0, 1.25]])
def test_measures_weights_and_lambda(measure: str, weights: list[float] | None) -> None:
    for kind in ("plain", "edges"):
        cases = draw(
            3, (1, 64, 300), kind, 2, measure=measure, weights=weights, lambda_=1.0 if weights is None else -0.3
        )
        assert same_as_reference(cases), kind


@pytest.mark.parametrize("shift", [1, 3])
def test_misaligned_operands(shift: int) -> None:
    assert same_as_reference(draw(4, SIZES, "plain", 3, DType.BF16, DType.F32), shift=shift)


@pytest.mark.parametrize("config", [LaunchConfig(32, 32, 1), LaunchConfig(128, 1024, 4), LaunchConfig(256, 256, 8)])
def test_the_bits_do_not_depend_on_the_launch(config: LaunchConfig) -> None:
    assert same_as_reference(draw(6, (300, 31), "plain", 4), config=config)


def test_frugal_kernels() -> None:
    """Kernels for many tasks load pointers and weights late, and may compute some tasks' normalisers again."""
    for n, block, measure, kept in ((8, 1024, "lp", 8), (10, 1024, "lp", 0), (16, 512, "lp_amp", 11)):
        launch = LaunchConfig(block=block, chunk=2048, warps=4)
        constants = sta_merge.merge_constants(
            *(n, DType.BF16, DType.BF16, DType.F32, DType.BF16),
            **{
                "k": 5,
                "ties": "drop",
                "measure": measure,
                "weighted": False,
                "counted": True,
                "aligned": True,
                "config": launch,
            },
        )
        assert (constants["FRUGAL"], constants["KEPT"]) == (True, kept)
        assert same_as_reference(draw(n, (1500,), "plain", 5, DType.BF16, measure=measure), config=launch), n
    for measure in ("amp", "lp_amp"):
        wide = LaunchConfig(block=1024, chunk=2048, warps=4)
        assert same_as_reference(draw(8, (1500,), "plain", 5, DType.BF16, measure=measure), config=wide), measure


def test_an_output_may_be_the_base() -> None:
    """Blocks that take the plain path read their operands again, after the fast path has not stored."""
    for kind in ("plain", SUBNORMAL_QUOTIENTS):
        (case,) = draw(4, (500,), kind, 3)
        expected, _ = run_merge(NumpyBackend(), case)
        segment = sta_merge.MergeSegment(
            Buffer.from_numpy(case.base),
            tuple(map(Buffer.from_numpy, case.finetuned)),
            tuple(map(Buffer.from_numpy, case.importances)),
            Buffer.from_numpy(case.base),
        )
        normaliser = torch.from_numpy(case.normaliser[None])
        sta_merge.launch_sta_merge(CPU, [segment], k=3, ties="drop", measure="lp", normaliser=normaliser, config=SMALL)
        assert case.base.tobytes() == expected.tobytes()


@pytest.mark.parametrize("normaliser", [(0.5, 2.0), (-1e30, 1e-20), (0.0, 1e-40), (1e-38, 3e38), (0.0, np.inf)])
def test_normalisers_of_the_callers_own(normaliser: tuple[float, float]) -> None:
    """Shifts and divisors that the fast path cannot scale exactly."""
    for kind in ("plain", "edges", "tiny quotients"):
        cases = draw(3, (130,), kind, 2)
        cases[0].normaliser[1] = normaliser
        assert same_as_reference(cases), kind


def test_a_shift_that_takes_differences_to_infinity() -> None:
    """The multiply-add of the fast path would step over the infinity, and see no tie."""
    for divisors in ((2e38, 2e38, 2e38), (0.0, 1.0, 1.0)):
        (case,) = draw(3, (128,), "plain", 2)
        for importance, value in zip(case.importances, (3e38, 2.9e38, 1.0), strict=True):
            importance[:] = value
        case.normaliser[:] = [(-3e38, divisor) for divisor in divisors]
        assert same_as_reference([case]), divisors


def test_a_tie_with_the_least_normal_quotient() -> None:
    (case,) = draw(2, (128,), "plain", 1, ties="all")
    case.importances[0][:], case.importances[1][:] = 2.0**-100, 2.0**-100 * (1 - 2.0**-24)
    case.normaliser[:] = 0, 2.0**26
    assert same_as_reference([case])


def test_zeros_are_no_reason_for_the_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs and weights that have no gradient give exact zeros."""
    (case,) = draw(4, (256,), POSITIVE_QUOTIENTS, 3)
    for importance in case.importances:
        importance[7::9] = 0
    case.importances[2][:] = 0
    case.normaliser[2] = 0

    def unreachable(*_: object) -> None:
        raise AssertionError("the plain path")

    monkeypatch.setattr(sta_merge, "merge_plainly", unreachable)
    monkeypatch.setattr(sta_merge_zeros, "merge_plainly", unreachable)
    assert same_as_reference([case])


def test_what_cannot_be_launched() -> None:
    """Buffers that a kernel would misread, and launches whose counters would run over."""
    (case,) = draw(2, (64,), "plain", 1)
    base, one, *others = (Buffer.from_numpy(array) for array in (case.base, *case.finetuned, *case.importances))
    other, *importances = others
    options = {"k": 1, "ties": "drop", "measure": "lp", "normaliser": torch.zeros(1, 2, 2)}

    def launched(models: tuple[Buffer, ...], config: LaunchConfig = SMALL) -> None:
        segment = sta_merge.MergeSegment(base, models, tuple(importances), base)
        sta_merge.launch_sta_merge(CPU, [segment], **options, config=config)

    strided = Buffer.from_numpy(np.zeros((64, 2), np.float32)[:, 0])
    with pytest.raises(ValueError, match="contiguous"):
        launched((one, strided))
    with pytest.raises(ValueError, match="one dtype"):
        launched((one, Buffer.from_numpy(np.zeros(64, np.float16))))
    with pytest.raises(ValueError, match="63 blocks"):
        launched((one, other), LaunchConfig(16, 64 * 16, 1))
    with pytest.raises(ValueError, match="whole blocks"):
        LaunchConfig(64, 96, 1)


# Faults that the tests above must see.


def test_planted_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    original = sta_merge.merge_constants

    def off_by_one(*arguments, **options):
        constants = original(*arguments, **options)
        return {**constants, "RANK": constants["RANK"] + 1, "NETWORK": networks.selection_network(6, 5)}

    monkeypatch.setattr(sta_merge, "merge_constants", off_by_one)
    assert not same_as_reference(draw(6, (400,), "plain", 4))


def test_planted_comparator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every exchange of the network matters."""
    original = networks.selection_network(6, 4)
    for dropped in range(len(original)):
        network = original[:dropped] + original[dropped + 1 :]
        monkeypatch.setattr(sta_merge_constants, "selection_network", lambda n, rank, network=network: network)
        assert not same_as_reference(draw(6, (130,), "plain", 4)), dropped


def test_planted_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the test for small quotients, tiny ones are compared before they have been rounded."""
    monkeypatch.setattr(sta_merge, "LEAST_EXACT", -1.0)
    assert not same_as_reference(draw(4, (400,), SUBNORMAL_QUOTIENTS, 3))


def test_planted_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask that keeps what equals the threshold."""
    original = sta_merge.merge_constants

    def keeps_ties(*arguments, **options):
        return {**original(*arguments, **options), "TIES": "all"}

    monkeypatch.setattr(sta_merge, "merge_constants", keeps_ties)
    assert not same_as_reference(draw(4, (400,), "ties", 3))


# The division as it is compiled.


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_division_as_it_is_compiled(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    as_compiled(monkeypatch)
    for k in (1, 3):
        assert same_as_reference(draw(4, (200,) * 2, kind, k), config=LaunchConfig(128, 256, 4)), k


def test_planted_approximate_division(monkeypatch: pytest.MonkeyPatch) -> None:
    """A multiplication by the reciprocal breaks ties that the quotients have; one task above another is kept."""

    def without_correction(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        exact = fma(x, y, z)
        return np.where(np.abs(exact - z) <= np.abs(z) * 2.0**-20, z, exact)

    as_compiled(monkeypatch, without_correction)
    assert not same_as_reference(draw(4, (300,) * 4, POSITIVE_QUOTIENTS, 1))


def test_a_base_of_negative_zeros_stays_where_no_task_is_kept() -> None:
    """Tied importances keep nobody, in a full block as in the tail."""
    base, ones, out = (Operand(DType.F32, 100) for _ in range(3))
    base.array[:], ones.array[:], out.array[:] = -0.0, 1.0, 7.0
    sta_merge.launch_sta_merge(
        CPU,
        [sta_merge.MergeSegment(base.buffer(), (ones.buffer(),) * 3, (ones.buffer(),) * 3, out.buffer())],
        k=2,
        ties="drop",
        measure="lp",
        normaliser=torch.tensor([[[0.0, 1.0]] * 3]),
        weights=None,
        lambda_=1.0,
        counts=None,
        config=LaunchConfig(block=64, chunk=64, warps=1),
    )
    assert np.array_equal(out.bits(), base.bits())
