"""Nearswap: near, far, and no distance at all."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.reference.literal import nearswap


def test_merged(FX):
    merged = nearswap.nearswap_literal(FX.base, FX.finetuned[0], 2 / 8)
    np.testing.assert_array_equal(8 * (merged - FX.base), (2, -1, 0, 2, -2, 2))


@pytest.mark.parametrize(("t", "expected"), [(0, 0), (-1, 0), (1, 1)])
def test_all_or_nothing(FX, t, expected):
    merged = nearswap.nearswap_literal(FX.base, FX.finetuned[0], t)
    np.testing.assert_array_equal(merged, FX.base + expected * FX.taus[0])


def test_distances_too_small_to_tell():
    merged = nearswap.nearswap_literal(np.zeros(3), (1e-7, 1e-6, 1e-5), 5e-7)
    np.testing.assert_allclose(merged, (0.5e-7, 0.5e-6, 5e-7), rtol=1e-12)
