"""PCB-Merging: three variants on the worked example, degenerate ranges, invariances."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.reference.literal import pcb


@pytest.mark.parametrize(("variant", "last"), [("v1", 0.375), ("v2", 0.371727), ("v3", 0.373126)])
def test_merged_task_vector(FX, variant, last):
    merged = pcb.pcb_literal(FX.base, FX.finetuned, 0.5, variant=variant)
    np.testing.assert_allclose(merged - FX.base, (0.5, -0.625, -0.25, 0.375, 0, last), atol=5e-7)


def test_scores(FX):
    expected = ((1, 0, 0, 0, 0, 0.015216), (0, 1, 0, 0.060747, 0, 0), (0, 0, 0.045496, 0, 0, 1))
    np.testing.assert_allclose(pcb.scores_literal(np.float64(FX.taus), 0.5), expected, atol=5e-7)


def test_lambda(FX):
    merged = pcb.pcb_literal(FX.base, FX.finetuned, 0.5, lambda_=1.2)
    np.testing.assert_allclose(merged, (1.6, -2.75, 0.2, 0.45, 3, -0.552248), atol=1e-6)


def test_lambda_per_task(FX):
    merged = pcb.pcb_literal(FX.base, FX.finetuned, 0.5, lambda_=(2, 0, 1))
    np.testing.assert_allclose(merged - FX.base, (1, 0, -0.25, 0, 0, 0.376873), atol=1e-6)


@pytest.mark.parametrize("variant", ["v1", "v2", "v3"])
@pytest.mark.parametrize("ratio", [0.05, "1/6"])
def test_too_few_entries_score_nothing(FX, variant, ratio):
    np.testing.assert_array_equal(pcb.pcb_literal(FX.base, FX.finetuned, ratio, variant=variant), FX.base)


@pytest.mark.parametrize("variant", ["v1", "v2", "v3"])
def test_no_range_scores_nothing(variant):
    tau = np.stack((np.full(100, 0.25), np.zeros(100)))
    np.testing.assert_array_equal(pcb.scores_literal(tau, 0.5, variant), 0)
    np.testing.assert_array_equal(pcb.pcb_literal(np.ones(100), 1 + tau, 0.5, variant=variant), 1)


def test_one_task_alone_keeps_its_full_vector():
    tau = np.zeros((2, 200))
    tau[0] = np.random.default_rng(0).normal(size=200)
    scores = pcb.scores_literal(tau, 0.2)
    merged = pcb.pcb_literal(np.zeros(200), tau, 0.2)
    alone = scores[0] > 0
    assert 0 < alone.sum() < 40
    bounds = np.sort(np.abs(tau[0]))[[2, 197]]
    np.testing.assert_allclose(merged[alone], np.sign(tau[0, alone]) * np.clip(np.abs(tau[0, alone]), *bounds))
    np.testing.assert_array_equal(merged[~alone], 0)


def test_the_clip_counts_by_exact_decimals():
    tau = np.arange(1.0, 1001)
    np.testing.assert_array_equal(pcb.clip_literal(tau, "0.01"), np.clip(tau, 11, 990))
    np.testing.assert_array_equal(pcb.clip_literal(tau, 1e-4), np.clip(tau, 1, 999))
    np.testing.assert_array_equal(pcb.clip_literal(tau, 0.29), np.clip(tau, 291, 710))
    np.testing.assert_array_equal(pcb.clip_literal(-tau[:1], 0.01), 1)


def test_the_canonical_variant_knows_no_units(FX):
    rng = np.random.default_rng(2)
    tau = rng.normal(size=(4, 1000))
    np.testing.assert_allclose(pcb.scores_literal(2.0**-10 * tau), pcb.scores_literal(tau), rtol=1e-12)


@pytest.mark.parametrize("variant", ["v1", "v2", "v3"])
def test_the_order_of_the_tasks_does_not_matter(variant):
    rng = np.random.default_rng(1)
    base, models = rng.normal(size=(20, 30)), rng.normal(size=(4, 20, 30))
    expected = pcb.pcb_literal(base, models, 0.3, variant=variant)
    np.testing.assert_allclose(pcb.pcb_literal(base, models[[2, 0, 3, 1]], 0.3, variant=variant), expected, rtol=1e-10)


def test_an_unknown_variant_is_refused(FX):
    with pytest.raises(ValueError, match="variant 'v4'"):
        pcb.pcb_literal(FX.base, FX.finetuned, variant="v4")
