"""DELLA: chances by rank, draws that are given, and what follows from them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import xxhash

from sta_kernels import methods
from sta_kernels.errors import InputError
from sta_kernels.kernels import get_backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.reference.literal.della import della_literal, keep_probabilities_literal
from sta_kernels.kernels.reference.philox import draws_exact
from sta_kernels.kernels.reference.rank_gate import ranks_exact, thresholds_exact
from sta_kernels.methods.base import Operands, Place
from sta_kernels.methods.run import Piece, merge_pieces

NAMES = ("della", "della_linear")
SHAPES = [(300,), (24, 50), (5, 3, 4, 2), (40, 1), (1,), ()]
BACKENDS = ["reference", "native"]


def merged(name: str, base: Any, models: Any, backend: str = "reference", **parameters: Any) -> np.ndarray[Any, Any]:
    method = methods.get(name)
    out = np.full(base.shape, np.nan, np.float32)
    operands = Operands(tuple(Buffer.from_numpy(np.array(model)) for model in models), Buffer.from_numpy(base))
    piece = Piece(operands, Buffer.from_numpy(out), Place.alone(base.shape, "layer.weight"))
    settings = methods.resolve(method, len(models), **parameters)
    merge_pieces(method, [piece], settings, backend=get_backend(backend), threads=2)
    return out


def grid(shape: tuple[int, ...], seed: int = 0, models: int = 3) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Multiples of 1/64, so that magnitudes tie, and that float32 rounds nothing."""
    rng = np.random.default_rng(seed)
    base = np.array(rng.integers(-64, 64, shape) / 64, np.float32)
    return base, np.array(base + rng.integers(-32, 33, (models, *shape)) / 64, np.float32)


def uniform(shape: tuple[int, ...], seed: int, task: int) -> np.ndarray[Any, Any]:
    """The draws of a task, in [0, 1)."""
    tensor = xxhash.xxh32_intdigest(b"layer.weight")
    return draws_exact(seed, tensor, task, np.arange(math.prod(shape))).reshape(shape) / 2.0**32


def test_chances_of_the_worked_example(FX: Any) -> None:
    chances = (int(0.4 * 2**32), int(0.6 * 2**32))
    q = thresholds_exact(ranks_exact(FX.taus[:1]), 6, chances)[0] / 2.0**32
    np.testing.assert_allclose(q, (0.56, 0.44, 0.4, 0.52, 0.6, 0.48), atol=1e-9)


@pytest.mark.parametrize("shape", [(7, 31), (4, 1), (1, 1000)])
def test_chances_are_those_of_the_formula(shape: tuple[int, int]) -> None:
    tau = (np.random.default_rng(1).integers(-9, 10, shape) / 8).astype(np.float32)
    low, high = int(0.3 * 2**32), int(0.9 * 2**32)
    q = thresholds_exact(ranks_exact(tau), shape[1], (low, high)) / 2.0**32
    np.testing.assert_allclose(q, keep_probabilities_literal(tau, "0.6", "0.3"), atol=2**-31)


def test_of_equal_magnitudes_the_first_ranks_highest_and_nan_above_infinity() -> None:
    tau = np.array([[0.0, -0.0, 1, -1, 0], [np.nan, np.inf, -np.nan, -np.inf, 2]], np.float32)
    assert ranks_exact(tau).tolist() == [[2, 1, 4, 3, 0], [4, 2, 3, 1, 0]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rescale", ["l1", "keep_rate", "none"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_given_draws(shape: tuple[int, ...], name: str, rescale: str, backend: str) -> None:
    base, models = grid(shape)
    weights, density, epsilon = (0.5, 1.0, -2.0), ("0.5", "0.3", "1"), ("0.2", "0.25", "0.4")
    parameters = {"density": [0.5, 0.3, 1], "epsilon": [0.2, 0.25, 0.4], "weight": weights, "lambda_": 1.5, "seed": 11}
    normalize = name == "della"
    got = merged(name, base, models, backend, rescale=rescale, normalize=normalize, **parameters)
    draws = np.stack([uniform(shape, 11, task) for task in range(3)])
    known = {"l1": "l1", "keep_rate": "probability", "none": "none"}[rescale]
    want = della_literal(base, models, draws, density, epsilon, weights, 1.5, normalize, known, elect=name == "della")
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_great_entries_are_kept_more_often(backend: str) -> None:
    rows, n = 200, 512
    base = np.zeros((rows, n), np.float32)
    model = np.random.default_rng(3).permuted(np.tile(np.arange(1, n + 1, dtype=np.float32), (rows, 1)), axis=1)
    out = merged("della_linear", base, [model], backend, density=0.3, epsilon=0.2, rescale="none", seed=4)
    assert set(np.unique(out / model)) == {0, 1}
    by_rank = np.zeros(n)
    np.add.at(by_rank, model[out != 0].astype(int) - 1, 1)
    kept = by_rank.reshape(8, -1).mean(axis=1) / rows  # octiles of the ranks
    q = 0.1 + 0.4 * (np.arange(n) / (n - 1)).reshape(8, -1).mean(axis=1)
    assert np.abs(kept - q).max() < 5 * np.sqrt(0.25 / (rows * n / 8))


@pytest.mark.parametrize("backend", BACKENDS)
def test_dividing_by_the_chance_keeps_the_mean(backend: str) -> None:
    base = np.zeros((400, 256), np.float32)
    model = np.random.default_rng(5).standard_normal(base.shape, np.float32)
    kept = merged("della_linear", base, [model], backend, density=0.5, epsilon=0.4, rescale="keep_rate")
    deviation = np.sqrt((model.astype(np.float64) ** 2 * 9).sum())  # of a sum of entries kept one time in ten
    assert abs(kept.sum(dtype=np.float64) - model.sum(dtype=np.float64)) < 5 * deviation
    restored = merged("della_linear", base, [model], backend, density=0.5, epsilon=0.4)
    assert np.abs(restored).sum(dtype=np.float64) == pytest.approx(np.abs(model).sum(dtype=np.float64), rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_at_the_ends_of_density(shape: tuple[int, ...], backend: str) -> None:
    base, models = grid(shape)
    assert np.array_equal(merged("della_linear", base, models, backend), merged("task_arithmetic", base, models))
    assert np.array_equal(merged("della", base, models, backend), merged("ties", base, models))
    assert np.array_equal(merged("della", base, models, backend, density=0), base)


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_a_spread_it_is_dare(backend: str) -> None:
    base, models = grid((30, 40))
    parameters = {"density": 0.4, "seed": 3, "rescale": "none"}
    assert np.array_equal(
        merged("della_linear", base, models, backend, epsilon=0, **parameters),
        merged("dare_linear", base, models, **parameters),
    )


def test_seeds_differ_and_repeat() -> None:
    base, models = grid((30, 40))
    one, again, other = (merged("della", base, models, density=0.5, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"density": [0.5, 0.1]},
            r"model 2: density 0.1 ± epsilon 0.15: .*; set `epsilon` below 0.1 \(it is 0.15 unless",
        ),
        ({"density": 0.15}, r"model 1: density 0.15 ± epsilon 0.15"),
        ({"density": 0.8, "epsilon": [0.1, 0.2]}, r"model 2: density 0.8 ± epsilon 0.2"),
        ({"epsilon": 1.5}, r"epsilon: expected a number in \[0, 1\]"),
        ({"density": -0.5}, r"density: expected a share"),
        ({"rescale": "rows"}, r"rescale: expected l1, keep_rate or none"),
        ({"gamma": 0.1}, r"has no parameter 'gamma'"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_refused(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"{name}.*{message}"):
        methods.resolve(methods.get(name), 2, **parameters)


def test_defaults_are_those_of_mergekit() -> None:
    for name, normalize in (("della", True), ("della_linear", False)):
        settings = methods.resolve(methods.get(name), 1)
        assert settings.shared["normalize"] is normalize
        assert settings.shared["rescale"] == "l1"
        assert settings.per_model["epsilon"] == (0.15,)
        assert methods.resolve(methods.get(name), 1, rescale=True).shared["rescale"] == "l1"
        assert methods.resolve(methods.get(name), 1, rescale=False).shared["rescale"] == "none"
