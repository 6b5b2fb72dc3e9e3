"""PCB-Merging's entries that are set to 0 without a score: none that has one above the least."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from formula_cases import same_values

from sta_kernels.kernels.buffers import Buffer, DType
from sta_kernels.kernels.formula import Formula, FormulaSource
from sta_kernels.kernels.native import NativeBackend
from sta_kernels.kernels.numpy_backend import NumpyBackend

N = 20000


def results(isa: str, source: FormulaSource) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for backend in (NumpyBackend(), NativeBackend(isa)):
        found.append(np.empty(source.size, np.float32))
        backend.evaluate(source, out=Buffer.from_numpy(found[-1]), threads=1)
    return found[0], found[1]


@pytest.mark.parametrize("form", [1, 2, 3])
@pytest.mark.parametrize("n_models", [1, 2, 4, 6])
@pytest.mark.parametrize("share", [0.5, 0.95, 0.985])
def test_scores_of_which_few_are_above_the_least(isa: str, form: int, n_models: int, share: float) -> None:
    rng = np.random.default_rng(n_models)
    common = rng.standard_normal(N)
    scale = 1.0 if form == 1 else 0.01
    tau = [(scale * (common + rng.standard_normal(N))).astype(np.float32) for _ in range(n_models)]
    clips = tuple(tuple(map(float, np.quantile(np.abs(each), (0.01, 0.99)).astype(np.float32))) for each in tau)
    source = FormulaSource(Formula("distance"), tuple(map(Buffer.from_numpy, tau)), Buffer.from_numpy(0 * tau[0]))
    rows = []
    for task, clip in enumerate(clips):
        score = Formula("pcb_score", (form,), (), clips, (task,))
        values = NumpyBackend().values(replace(source, formula=score), 0, N)
        rows.append((*clip, 0.7, float(np.sort(values)[int(share * N)]), float(values.max())))
    expected, found = results(isa, replace(source, formula=Formula("pcb", (form,), (1.3,), tuple(rows))))
    assert same_values(found, expected, DType.F32)
    assert 0 < np.count_nonzero(expected) < N


@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, -1)])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99, 0.9999])
def test_every_pair_of_magnitudes_and_signs(isa: str, signs: tuple[int, int], share: float) -> None:
    """The least score is one that occurs: those next above it, on a grid of all magnitudes, are near every bound."""
    steps = np.linspace(0, 1, 129, dtype=np.float32)
    pair = [sign * axis.ravel() for sign, axis in zip(signs, np.meshgrid(steps, steps), strict=True)]
    for n_models in (2, 3, 5):
        tau = tuple(map(Buffer.from_numpy, (*pair, *[pair[1]] * (n_models - 2))))
        source = FormulaSource(Formula("distance"), tau, Buffer.from_numpy(0 * pair[0]))
        score = Formula("pcb_score", (3,), (), ((0.0, 1.0),) * n_models, (0,))
        values = np.sort(NumpyBackend().values(replace(source, formula=score), 0, source.size))
        row, idle = (0.0, 1.0, 1.0, float(max(values[int(share * values.size)], 0)), 9.0), (0.0, 1.0, 1.0, 99.0, 99.0)
        formula = Formula("pcb", (3,), (1.0,), (row, *[idle] * (n_models - 1)))
        expected, found = results(isa, replace(source, formula=formula))
        assert same_values(found, expected, DType.F32)
        assert np.count_nonzero(expected) == np.count_nonzero(values > row[3])


@pytest.mark.parametrize("scale", [1e-42, 1e-38, 1e-20, 1e30])
def test_of_any_scale(isa: str, scale: float) -> None:
    """Subnormal magnitudes, whose range has no finite reciprocal, among them."""
    rng = np.random.default_rng(1)
    tau = tuple(Buffer.from_numpy((scale * rng.standard_normal(N)).astype(np.float32)) for _ in range(3))
    clips = tuple(map(float, np.quantile(np.abs(tau[0].numpy()), (0.01, 0.99)).astype(np.float32)))
    source = FormulaSource(Formula("distance"), tau, Buffer.from_numpy(np.zeros(N, np.float32)))
    score = replace(source, formula=Formula("pcb_score", (3,), (), (clips,) * 3, (0,)))
    values = np.sort(NumpyBackend().values(score, 0, N))
    for least in (0.0, float(values[N // 2]), float(values[int(0.95 * N)])):
        formula = Formula("pcb", (3,), (1.0,), ((*clips, 1.0, max(least, 0.0), float(values[-1])),) * 3)
        expected, found = results(isa, replace(source, formula=formula))
        assert same_values(found, expected, DType.F32)
        assert np.count_nonzero(expected)


@pytest.mark.parametrize("lower", [0.0, 0.3, 1000.0])
@pytest.mark.parametrize("n_models", [2, 4, 8])
def test_where_all_others_agree(isa: str, lower: float, n_models: int) -> None:
    """Their scores are the highest that a magnitude can have, and cross the least one in small steps."""
    size = np.linspace(0, 0.3, N).astype(np.float32)
    own, others = lower + size, np.full(N, lower + 1, np.float32)
    models = [own.astype(np.float32), *[others] * (n_models - 1)]
    for crossing in (0.05, 0.1, 0.15, 0.2, 0.25):
        least = np.exp(n_models * (crossing**2 - 1)) * (np.tanh(crossing**2) + (n_models - 1) * np.tanh(crossing))
        idle = (lower, lower + 1.0, 1.0, 100.0, 100.0)  # no score of theirs counts
        formula = Formula("pcb", (3,), (1.0,), ((lower, lower + 1.0, 1.0, float(least), 3.0), *[idle] * (n_models - 1)))
        source = FormulaSource(formula, tuple(map(Buffer.from_numpy, models)), Buffer.from_numpy(0 * others))
        expected, found = results(isa, source)
        assert same_values(found, expected, DType.F32)
        assert abs(np.count_nonzero(expected) / N - (1 - crossing / 0.3)) < 0.01


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen(isa: str, wrong: float) -> None:
    tau = np.full(100, 1e-6, np.float32)
    tau[37] = wrong
    formula = Formula("pcb", (3,), (1.0,), ((0.0, 1.0, 1.0, 0.5, 1.0),))
    source = FormulaSource(formula, (Buffer.from_numpy(tau),), Buffer.from_numpy(np.zeros(100, np.float32)))
    expected, found = results(isa, source)
    assert same_values(found, expected, DType.F32)
    assert expected[37] != 0


def test_a_weighted_magnitude_may_overflow(isa: str) -> None:
    """An infinity times a score of 0 is NaN, which no bound on the score foresees."""
    tau = tuple(Buffer.from_numpy(np.full(N, value, np.float32)) for value in (3.1e38, 1.0))
    rows = ((3e38, 3.3e38, 2.0, 0.1, 9.0), (0.0, 1.0, 1.0, 99.0, 99.0))
    base = Buffer.from_numpy(np.zeros(N, np.float32))
    for form in (1, 2, 3):
        expected, found = results(isa, FormulaSource(Formula("pcb", (form,), (1.0,), rows), tau, base))
        assert same_values(found, expected, DType.F32)
