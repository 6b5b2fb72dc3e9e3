"""Merging along arcs: the worked examples, ends and middles, where an arc is none, what the forms share."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.reference.literal import slerp

PAIR = np.array(((1.0, 0), (0, 2)))


def test_slerp():
    np.testing.assert_allclose(slerp.slerp_literal(*PAIR, 0.5), (0.707107, 1.414214), rtol=1e-6)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_slerp_turns_by_a_share_of_the_angle(t):
    merged = slerp.slerp_literal(3 * PAIR[0], 1.5 * PAIR[1], t)
    np.testing.assert_allclose(merged, 3 * np.array((np.cos(t * np.pi / 2), np.sin(t * np.pi / 2))), atol=1e-15)


def test_slerp_is_straight_where_there_is_next_to_no_angle():
    start, near, far = np.array((2.0, 0)), np.array((1.0, 0.03)), np.array((1.0, 0.04))
    np.testing.assert_allclose(slerp.slerp_literal(start, near, 0.25), (1.75, 0.0075), rtol=1e-15)
    np.testing.assert_allclose(slerp.slerp_literal(start, -near, 0.25), (1.25, -0.0075), rtol=1e-15)
    assert abs(slerp.slerp_literal(start, far, 0.25)[1] - 0.01) > 1e-7


def test_slerp_with_nothing_is_a_right_angle():
    np.testing.assert_allclose(slerp.slerp_literal((1.0, 0), (0.0, 0), 0.5), (np.sqrt(0.5), 0), rtol=1e-15)
    np.testing.assert_array_equal(slerp.slerp_literal((1e-9, 0), (0.0, 1), 1), (0, 1))


def test_slerp_takes_the_angle_of_the_whole_tensor():
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, 3, 4, 5))
    merged = slerp.slerp_literal(start, end, 0.3)
    np.testing.assert_array_equal(merged.ravel(), slerp.slerp_literal(start.ravel(), end.ravel(), 0.3))


def test_nuslerp_is_slerp_away_from_the_ends():
    start, end = np.random.default_rng(0).normal(size=(2, 6, 7))
    merged = slerp.nuslerp_literal(None, (start, end), (3, 1))
    np.testing.assert_allclose(merged, slerp.slerp_literal(start, end, 0.25), rtol=1e-12)
    base = np.ones((6, 7))
    np.testing.assert_allclose(slerp.nuslerp_literal(base, (1 + start, 1 + end), (3, 1)), 1 + merged, rtol=1e-12)


@pytest.mark.parametrize(("row_wise", "axis"), [(True, 0), (False, 2)])
def test_nuslerp_along_an_axis(row_wise, axis):
    pair = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    merged = slerp.nuslerp_literal(None, pair, (1, 2), flatten=False, row_wise=row_wise)
    assert merged.shape == (3, 4, 5)
    merged, lines = np.moveaxis(merged, axis, -1), np.moveaxis(pair, axis + 1, -1)
    for index in np.ndindex(merged.shape[:-1]):
        expected = slerp.nuslerp_literal(None, lines[(slice(None), *index)], (1, 2))
        np.testing.assert_allclose(merged[index], expected, rtol=1e-14)
    np.testing.assert_allclose(
        slerp.nuslerp_literal(None, pair, (1, 2), flatten=True, row_wise=row_wise),
        slerp.slerp_literal(*pair, 2 / 3),
        rtol=1e-12,
    )


@pytest.mark.parametrize(("sign", "expected"), [(1, (2, 4)), (-1, (-1, -2))])
def test_nuslerp_is_straight_between_collinear_vectors(sign, expected):
    pair = np.array(((1.0, 2), (1.0, 2))) * ((1,), (sign * 3,))
    np.testing.assert_allclose(slerp.nuslerp_literal(None, pair), expected, rtol=1e-15)


def test_weights_without_a_sum_meet_in_the_middle():
    merged = slerp.nuslerp_literal(None, PAIR, (1, -1))
    np.testing.assert_allclose(merged, (0.707107, 1.414214), rtol=1e-6)


def test_multislerp():
    merged = slerp.multislerp_literal(None, PAIR)
    np.testing.assert_allclose(merged, 1.5 * np.sqrt((0.5, 0.5)), rtol=1e-7)
    np.testing.assert_allclose(slerp.multislerp_literal(np.ones(2), 1 + PAIR), 1 + merged, rtol=1e-15)
    np.testing.assert_allclose(slerp.multislerp_literal(None, PAIR, (2, 2), False), 4 * merged, rtol=1e-7)


def test_multislerp_has_no_way_to_go_in_the_tangent_space():
    rng = np.random.default_rng(0)
    models, weights = 1 + rng.normal(size=(4, 50)), np.array((1, 2, 3, 1)) / 7
    norms = np.linalg.norm(models, axis=1)
    units = models / norms[:, None]
    mean = weights @ units / np.linalg.norm(weights @ units)
    tangent = weights @ (units - np.outer(units @ mean, mean))
    np.testing.assert_allclose(tangent, 0, atol=1e-15)
    merged = slerp.multislerp_literal(None, models, (1, 2, 3, 1))
    np.testing.assert_allclose(merged, mean * (weights @ norms), rtol=1e-7)


def test_models_that_cancel():
    opposite = np.array(((3.0, 0), (-1.0, 0)))
    np.testing.assert_array_equal(slerp.multislerp_literal(np.ones(2), 1 + opposite), (2, 1))
    with pytest.raises(ValueError, match="cancel"):
        slerp.multislerp_literal(None, np.concatenate((opposite, np.zeros((1, 2)))))


def test_karcher():
    np.testing.assert_allclose(slerp.karcher_literal(PAIR), (1.06066, 1.06066), atol=5e-6)


def test_karcher_is_the_mean_angle_on_a_circle():
    angles = np.array((0.1, 0.7, 1.9))
    circle = np.stack((np.cos(angles), np.sin(angles)), axis=1) * ((1,), (2,), (6,))
    expected = 3 * np.array((np.cos(0.9), np.sin(0.9)))
    np.testing.assert_allclose(slerp.karcher_literal(circle), expected, rtol=1e-14)
    np.testing.assert_allclose(slerp.karcher_literal(circle, 1), expected, rtol=1e-14)  # one step reaches it
    assert np.abs(slerp.karcher_literal(circle, 0) - expected).max() > 1e-2


def test_karcher_counts_norms_without_direction():
    models = np.array(((1.0, 0), (1, 0), (0, 0), (1e-6, 1e-6)))
    np.testing.assert_allclose(slerp.karcher_literal(models), (0.5, 0), atol=1e-6)
    np.testing.assert_array_equal(slerp.karcher_literal(models[2:]), 0)


def test_karcher_of_opposites_begins_at_the_first():
    np.testing.assert_allclose(slerp.karcher_literal(np.array(((1.0, 0), (-3.0, 0))), 0), (2, 0))


@pytest.mark.parametrize("merge", [slerp.karcher_literal, lambda models: slerp.multislerp_literal(None, models)])
def test_one_model_is_itself(FX, merge):
    np.testing.assert_array_equal(merge(FX.finetuned[:1]), FX.finetuned[0])


@pytest.mark.parametrize("merge", [slerp.karcher_literal, lambda models: slerp.multislerp_literal(None, models)])
def test_the_order_of_the_models_does_not_matter(merge):
    models = 1 + np.random.default_rng(1).normal(size=(4, 20, 30))
    np.testing.assert_allclose(merge(models[[2, 0, 3, 1]]), merge(models), rtol=1e-12)
