"""TALL masks, decoding and Consensus: the worked example, exact; strictness; a merged vector of one's own."""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.literal import consensus

MASKS = np.array([[int(bit) for bit in row] for row in ("100111", "010110", "001001")], bool)


def test_masks(FX):
    masks = consensus.tall_masks_literal(FX.base, FX.finetuned, 0.5)
    np.testing.assert_array_equal(masks, MASKS)
    np.testing.assert_array_equal(masks.sum(axis=0), (1, 1, 1, 2, 2, 2))


def test_consensus(FX):
    merged = consensus.consensus_literal(FX.base, FX.finetuned, 2, 0.3, 0.5)
    np.testing.assert_allclose(merged, (1, -2, 0.5, 0.1125, 3, -0.8125), rtol=1e-15)


def test_decode(FX):
    restored = consensus.decode_literal(FX.base, MASKS[0], FX.taus.sum(axis=0))
    np.testing.assert_array_equal(restored, (1.375, -2, 0.5, 0.375, 3, -0.375))


def test_equality_is_not_enough(FX):
    tau = np.float64(FX.taus)
    at_least = np.abs(tau) >= 0.5 * np.abs(tau.sum(axis=0) - tau)
    assert (at_least != MASKS).sum() == 6


def test_a_lambda_per_task(FX):
    masks = consensus.tall_masks_literal(FX.base, FX.finetuned, (0.5, 1e9, 0.0))
    np.testing.assert_array_equal(masks, (MASKS[0], FX.taus.sum(axis=0) == FX.taus[1], FX.taus[2] != 0))


def test_a_merged_vector_of_ones_own(FX):
    merged_tau = np.array((4, 0, 0, 3, -12, 4)) / 8
    masks = consensus.tall_masks_literal(FX.base, FX.finetuned[:1], 1, merged_tau)
    np.testing.assert_array_equal(masks, [[True, False, False, True, False, False]])
    merged = consensus.consensus_literal(FX.base, FX.finetuned[:1], 1, 2, 1, merged_tau)
    np.testing.assert_array_equal(merged, (2, -2, 0.5, 0.75, 3, -1))


def test_agreement_of_none_and_of_all(FX):
    merged = consensus.consensus_literal(FX.base, FX.finetuned, 0, mask_lambda=0.5)
    np.testing.assert_array_equal(merged, FX.base + FX.taus.sum(axis=0))
    np.testing.assert_array_equal(consensus.consensus_literal(FX.base, FX.finetuned, 3, mask_lambda=0.5), FX.base)


def test_one_task_agrees_with_itself(FX):
    merged = consensus.consensus_literal(FX.base, FX.finetuned[:1], 1)
    np.testing.assert_array_equal(merged, FX.finetuned[0])


def test_the_order_of_the_tasks_does_not_matter():
    rng = np.random.default_rng(1)
    base, models = rng.integers(-64, 65, 500) / 64, rng.integers(-64, 65, (4, 500)) / 64
    expected = consensus.consensus_literal(base, models)
    np.testing.assert_array_equal(consensus.consensus_literal(base, models[[2, 0, 3, 1]]), expected)
