"""DARE with given masks: the worked example, the rescalings, both of TIES' places."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.reference.literal import dare

DROPPED = np.array([[int(bit) for bit in row] for row in ("100110", "001101", "110001")], bool)


def test_survivors(FX):
    deltas = dare.drop_literal(FX.taus, ~DROPPED, 0.5, "keep_rate")
    np.testing.assert_array_equal(8 * deltas, ((0, -2, 0, 0, 0, 4), (-4, -10, 0, 0, 12, 0), (0, 0, -4, -6, 0, 0)))


def test_average(FX):
    merged = dare.dare_linear_literal(FX.base, FX.finetuned, ~DROPPED, 0.5, normalize=True, rescale="keep_rate")
    np.testing.assert_allclose(merged, (0.833333, -2.5, 0.333333, -0.25, 3.5, -0.833333), atol=5e-7)


def test_task_arithmetic(FX):
    merged = dare.dare_linear_literal(FX.base, FX.finetuned, ~DROPPED, 0.5, lambda_=0.4, rescale="keep_rate")
    np.testing.assert_allclose(merged, (0.8, -2.6, 0.3, -0.3, 3.6, -0.8), rtol=1e-15)


def test_ties_trims_the_rescaled(FX):
    merged = dare.dare_before_ties_literal(FX.base, FX.finetuned, ~DROPPED, 0.5, "1/3")
    np.testing.assert_array_equal(merged, (0.5, -2.75, 0, -0.75, 4.5, -0.5))


def test_election_in_place_of_a_trim(FX):
    merged = dare.dare_ties_literal(FX.base, FX.finetuned, ~DROPPED, rescale="none")
    np.testing.assert_array_equal(8 * (merged - FX.base), (-2, -6, -2, -3, 6, 2))
    merged = dare.dare_ties_literal(FX.base, FX.finetuned, ~DROPPED, normalize=True, rescale="none")
    np.testing.assert_array_equal(8 * (merged - FX.base), (-2, -3, -2, -3, 6, 2))


def test_conflicting_survivors_are_elected():
    models, kept = np.array(((1.0, 1.0), (-3.0, -3.0))), np.array(((True, True), (True, False)))
    merged = dare.dare_ties_literal(np.zeros(2), models, kept, weights=(1, 2), rescale="none")
    np.testing.assert_array_equal(merged, (-6, 1))


def test_the_norm_is_restored(FX):
    deltas = dare.drop_literal(FX.taus, ~DROPPED, rescale="l1")
    np.testing.assert_allclose(np.abs(deltas).sum(axis=1), np.abs(FX.taus).sum(axis=1), rtol=1e-15)
    np.testing.assert_allclose(deltas[0], np.array((0, -1, 0, 0, 0, 2)) / 8 * (16 / 3), rtol=1e-15)


@pytest.mark.parametrize("scale", [1e-9, 0.0])
def test_next_to_no_norm_is_left_alone(FX, scale):
    deltas = dare.drop_literal(FX.taus * scale, ~DROPPED, rescale="l1")
    np.testing.assert_array_equal(deltas, np.where(DROPPED, 0, FX.taus * scale))
    deltas = dare.drop_literal(FX.taus, np.zeros_like(DROPPED), rescale="l1")
    np.testing.assert_array_equal(deltas, 0)


@pytest.mark.parametrize("rescale", ["none", "l1", "keep_rate"])
def test_keeping_all_is_task_arithmetic(FX, rescale):
    merged = dare.dare_linear_literal(FX.base, FX.finetuned, np.ones((3, 6), bool), 1, (1, 2, -1), rescale=rescale)
    np.testing.assert_array_equal(merged, FX.base + FX.taus[0] + 2 * FX.taus[1] - FX.taus[2])


def test_keeping_none_is_the_base(FX):
    merged = dare.dare_linear_literal(FX.base, FX.finetuned, np.zeros((3, 6), bool), 0, rescale="keep_rate")
    np.testing.assert_array_equal(merged, FX.base)


def test_weights_that_cancel_divide_by_one(FX):
    arguments = (FX.base, FX.finetuned[:2], np.ones((2, 6), bool))
    merged = dare.dare_linear_literal(*arguments, weights=(1, -1 + 1e-9), normalize=True, rescale="none")
    np.testing.assert_allclose(merged, FX.base + FX.taus[0] - FX.taus[1], atol=1e-8)
    merged = dare.dare_linear_literal(*arguments, weights=(3, -1), normalize=True, rescale="none")
    np.testing.assert_array_equal(merged, FX.base + (3 * FX.taus[0] - FX.taus[1]) / 2)


def test_a_keep_rate_per_task(FX):
    deltas = dare.drop_literal(FX.taus, np.ones((3, 6), bool), (0.5, "1/4", 1), "keep_rate")
    np.testing.assert_array_equal(deltas, FX.taus * np.array(((2,), (4,), (1,))))


def test_what_is_not_understood_is_refused(FX):
    with pytest.raises(ValueError, match="rescale 'l2'"):
        dare.drop_literal(FX.taus, ~DROPPED, 0.5, "l2")
    with pytest.raises(ValueError, match="needs the density"):
        dare.drop_literal(FX.taus, ~DROPPED, rescale="keep_rate")
