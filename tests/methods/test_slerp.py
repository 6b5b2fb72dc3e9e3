"""SLERP and its relatives: worked examples, ends, degenerate angles, and the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from merged_arrays import drawn, merged, same_on_all

from sta_kernels import methods
from sta_kernels.errors import InputError
from sta_kernels.kernels.reference.literal import slerp

PAIR = np.array(((1.0, 0), (0, 2)))
ROWS = (
    {},
    {"nuslerp_row_wise": True},
    {"nuslerp_flatten": False},
    {"nuslerp_flatten": False, "nuslerp_row_wise": True},
)


def settings_of(name: str, n_models: int, **values: Any) -> Any:
    return methods.resolve(methods.get(name), n_models, **values)


def test_slerp():
    got = same_on_all("slerp", PAIR[0], PAIR[1:], t=0.5)
    np.testing.assert_allclose(got, (0.707107, 1.414214), rtol=1e-6)


@pytest.mark.parametrize("t", [0, 1])
def test_slerp_ends_in_its_models(t: int):
    base, model = drawn(2, 500)
    np.testing.assert_array_equal(same_on_all("slerp", base, [model], t=t), np.float32((base, model)[t]))


@pytest.mark.parametrize("t", [-0.2, 0.1, 0.5, 0.9, 1.3])
@pytest.mark.parametrize("alike", [0.0, 0.9, 0.9994, 0.9996, 1.0, -0.6, -0.9996])
def test_slerp_agrees_with_the_oracle(t: float, alike: float):
    base, noise = drawn(2, 100_000, scale=0.02)
    model = (alike * base + np.sqrt(1 - alike**2) * noise).astype(np.float32).astype(np.float64)
    want = slerp.slerp_literal(base, model, t)
    got = same_on_all("slerp", base, [model], t=t)
    assert np.abs(got - want).max() <= 3e-7 * (np.abs(base).max() + np.abs(want).max())


def test_slerp_without_length():
    """A norm of next to nothing counts as 1, and the angle is a right one."""
    base, zero = drawn(9), np.zeros(9)
    np.testing.assert_allclose(same_on_all("slerp", base, [zero], t=0.5), base * np.sqrt(0.5), rtol=3e-7)
    np.testing.assert_allclose(same_on_all("slerp", zero, [base], t=0.5), base * np.sqrt(0.5), rtol=3e-7)
    np.testing.assert_array_equal(same_on_all("slerp", zero, [zero], t=0.3), 0)


def test_t_is_required():
    for name in ("slerp", "nearswap"):
        with pytest.raises(InputError, match=f"{name}: t is required"):
            settings_of(name, 1)


@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize("shape", [(100_000,), (250, 400), (400, 250), (7, 5, 3, 11), (1, 9), (9, 1), ()])
def test_nuslerp_agrees_with_the_oracle(shape: tuple[int, ...], with_base: bool, rows: dict[str, bool]):
    base = drawn(*shape) if with_base else None
    models = drawn(2, *shape, seed=1)
    flatten, row_wise = rows.get("nuslerp_flatten", True), rows.get("nuslerp_row_wise", False)
    want = slerp.nuslerp_literal(base, models, (0.3, 0.9), flatten, row_wise and shape != ())
    got = same_on_all("nuslerp", base, models, weight=[0.3, 0.9], **rows)
    assert np.abs(got - want).max() <= 1e-6 * np.abs(models).max()


@pytest.mark.parametrize("rows", ROWS[2:], ids=str)
def test_nuslerp_in_rows_longer_than_are_read_at_once(rows: dict[str, bool]):
    models = drawn(2, 3, 70_000, seed=1)
    models[1] += 4 * models[0]  # away from opposites, near which float32 says little
    models = models.astype(np.float32).astype(np.float64)
    want = slerp.nuslerp_literal(None, models, (1, 1), rows.get("nuslerp_flatten", True), "nuslerp_row_wise" in rows)
    got = same_on_all("nuslerp", None, models, **rows)
    assert np.abs(got - want).max() <= 1e-6 * np.abs(models).max()


def test_nuslerp_weights_that_cancel_meet_in_the_middle():
    models = drawn(2, 30)
    np.testing.assert_array_equal(
        same_on_all("nuslerp", None, models, weight=[1.0, -1.0]), same_on_all("nuslerp", None, models)
    )


@pytest.mark.parametrize("rows", ROWS[::2], ids=str)
@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, -0.5])
def test_nuslerp_is_straight_between_collinear_models(factor: float, rows: dict[str, bool]):
    model = drawn(8, 40)
    got = same_on_all("nuslerp", None, [model, factor * model], weight=[3.0, 1.0], **rows)
    np.testing.assert_allclose(got, (0.75 + 0.25 * factor) * model, rtol=1e-6)


def test_nuslerp_of_models_equal_to_the_base_is_the_base():
    base = drawn(8, 40)
    for rows in ROWS:
        np.testing.assert_array_equal(same_on_all("nuslerp", base, [base, base], **rows), np.float32(base))


def test_nuslerp_keeps_float64_where_nothing_is_added():
    base = np.random.default_rng(0).normal(size=(3, 4))  # with more digits than float32 has
    got = merged("nuslerp", base, [base, base], out_dtype=np.float64, nuslerp_flatten=False)
    np.testing.assert_array_equal(got, base)


@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize("values", [{}, {"normalize_weights": False}, {"eps": 0.5}], ids=str)
def test_multislerp_agrees_with_the_oracle(values: dict[str, Any], with_base: bool):
    base, weights = drawn(100_000) if with_base else None, [0.3, 1.1, 0.7]
    models = drawn(3, 100_000, seed=1) + drawn(100_000, seed=2)
    models = models.astype(np.float32).astype(np.float64)
    want = slerp.multislerp_literal(base, models, weights, **values)
    got = same_on_all("multislerp", base, models, weight=weights, **values)
    assert np.abs(got - want).max() <= 1e-6 * np.abs(want).max()


def test_multislerp_of_one_model_is_that_model():
    base, model = drawn(2, 20)
    model[3] = -0.0
    np.testing.assert_array_equal(
        same_on_all("multislerp", base, [model]).view(np.uint32), np.float32(model).view("u4")
    )


def test_multislerp_adds_two_opposites_straight():
    base, tau = np.ones(30), drawn(30).clip(-0.5, 0.5)
    got = same_on_all("multislerp", None, [tau, -tau], weight=[1.0, 1.0])
    np.testing.assert_array_equal(got, 0)
    models = np.float32([base + 0.5, base - 0.5])
    np.testing.assert_array_equal(same_on_all("multislerp", base, models), 1)


@pytest.mark.parametrize("seed", range(8))
def test_opposites_of_few_entries_are_opposites(seed: int):
    """Their products round: taken at their word, they would be at an angle, and what they make without bound."""
    direction = drawn(1 + seed % 3, seed=seed, scale=30)
    models = np.float32([0.3 * direction, -0.7 * direction]).astype(np.float64)
    for flatten in (False, True):
        got = same_on_all("nuslerp", None, models, nuslerp_flatten=flatten)
        np.testing.assert_allclose(got, models.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(same_on_all("karcher", None, models), models[0] / 0.6, rtol=1e-5)
    got = same_on_all("multislerp", None, models)
    np.testing.assert_allclose(got, models.mean(axis=0), rtol=1e-5)


def test_multislerp_refuses_more_that_cancel():
    models = np.array(((1.0, 0), (-1, 0), (0, 0)))
    with pytest.raises(InputError, match="multislerp: 'w': the directions of the models cancel"):
        merged("multislerp", None, models)
    base = drawn(5)
    np.testing.assert_array_equal(same_on_all("multislerp", base, [base] * 3), np.float32(base))


def test_multislerp_refuses_weights_that_sum_to_nothing():
    with pytest.raises(InputError, match="the weights sum to 0"):
        settings_of("multislerp", 2, weight=[1, -1])
    settings_of("multislerp", 2, weight=[1, -1], normalize_weights=False)
    settings_of("multislerp", 1, weight=0)


@pytest.mark.parametrize(("name", "counts"), [("slerp", [1]), ("nuslerp", [2]), ("multislerp", [1, 2, 3, 4])])
def test_numbers_of_models(name: str, counts: list[int]):
    values = {"t": 0.5} if name == "slerp" else {}
    for count in range(1, 5):
        if count in counts:
            settings_of(name, count, **values)
        else:
            with pytest.raises(InputError, match="models given"):
                settings_of(name, count, **values)


def test_the_base_is_optional_but_for_slerp():
    assert not methods.get("slerp").roles(settings_of("slerp", 1, t=0)).base_optional
    for name in ("nuslerp", "multislerp"):
        roles = methods.get(name).roles(settings_of(name, 2))
        assert roles.base
        assert roles.base_optional
