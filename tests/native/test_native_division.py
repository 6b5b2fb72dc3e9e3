"""Division by an invariant in three operations is the correctly rounded quotient: the kernels rely on this proof."""

from __future__ import annotations

import numpy as np
import pytest
from division_cases import LARGEST, NEAR, SMALLEST, boundary_cases, fma


def fused(x: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The kernel's three operations; products of two float32 are exact in float64, and so is x - q0 d here."""
    wide = np.float64
    q0 = (x.astype(wide) * c).astype(np.float32)
    r = (x.astype(wide) - q0.astype(wide) * d).astype(np.float32)
    return fma(r, c, q0)


def check(divisors: np.ndarray, shift: int) -> int:
    """Number of quotients checked next to a boundary; the quotient is in [1, 2) for shift 24, in (1/2, 1) for 25."""
    x, d = boundary_cases(divisors.astype(np.int64), shift)
    proper = (x >= d) if shift == 24 else (x < d)
    x, d = x[proper].astype(np.float32), d[proper].astype(np.float32)
    c = np.float32(1) / d
    assert np.array_equal(fused(x, c, d), x / d)
    return x.size


@pytest.mark.parametrize("shift", [24, 25])
@pytest.mark.parametrize("part", range(4))
def test_quotients_next_to_rounding_boundaries(shift: int, part: int) -> None:
    divisors = np.random.default_rng(part).integers(SMALLEST, LARGEST, 4096)
    special = [SMALLEST, SMALLEST + 1, LARGEST - 1, LARGEST - 2, 3 << 22]
    assert check(np.unique(np.concatenate((divisors, special))), shift) > 1000


@pytest.mark.audit
@pytest.mark.parametrize("shift", [24, 25])
def test_quotients_of_all_divisors(shift: int) -> None:
    for start in range(SMALLEST, LARGEST, 1 << 17):
        assert check(np.arange(start, start + (1 << 17)), shift)


def test_the_cases_are_those_of_a_brute_search() -> None:
    d = np.array([SMALLEST + 5, SMALLEST + 12], np.int64)
    for shift in (24, 25):
        x, owner = boundary_cases(d, shift)
        for divisor in d:
            candidates = np.arange(SMALLEST, LARGEST, dtype=np.int64)
            remainder = (candidates << shift) % (2 * divisor) - divisor
            expected = candidates[np.abs(remainder) < NEAR]
            # The congruence also lists even multiples, which are no boundaries; none is missing.
            assert np.isin(expected, x[owner == divisor]).all()
            assert expected.size
