"""Division by an invariant in three operations is the correctly rounded quotient: the proof that the kernel relies on.

With c = RN(1/d), q0 = RN(x c), r = RN(x - q0 d), q = RN(q0 + r c). For mantissas in [1, 2), q0 is off by at most
1.5 units in the last place and r by at most one unit of its own, so that q0 + r c is off x/d by less than 7 * 2^-25
units. A quotient lies j / (2 D) units from a rounding boundary, D = 2^23 d an integer below 2^24, j an integer. So only
where |j| is below 8 can q differ from RN(x/d), and those x follow from a congruence modulo D.
"""

from __future__ import annotations

import numpy as np
import pytest

SMALLEST, LARGEST = 1 << 23, 1 << 24
NEAR = 8


def boundary_cases(divisors: np.ndarray, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """All (x, d) of 24-bit integers with x 2^shift = (2m + 1) d + j, |j| < NEAR: quotients next to a boundary.

    d = 2^t d', d' odd. Both sides are divisible by 2^t, so j is: x 2^(shift - t) = (2m + 1) d' + j'. That fixes x
    modulo d'. j = 0 cannot be (one side would be odd), so t is at most 2, and d' large. Even multiples of d are listed
    too.
    """
    found_x, found_d = [], []
    twos = np.zeros(divisors.size, np.int64)
    odd = divisors.copy()
    while (even := (odd & 1) == 0).any():
        odd[even] >>= 1
        twos[even] += 1
    inverse = np.ones_like(odd)  # of 2 ** (shift - t) modulo odd, by halving
    for step in range(shift):
        halve = shift - twos > step
        inverse[halve] = ((inverse + (inverse & 1) * odd) >> 1)[halve]
    for j in (j for j in range(-NEAR + 1, NEAR) if j):
        fits = j % (1 << np.minimum(twos, 4)) == 0
        d, o, t = divisors[fits], odd[fits], twos[fits]
        first = (j >> t) * inverse[fits] % o
        for start in range(int(LARGEST // o.min()) + 1 if o.size else 0):
            x = first + start * o
            inside = (x >= SMALLEST) & (x < LARGEST)
            found_x.append(x[inside])
            found_d.append(d[inside])
    return np.concatenate(found_x), np.concatenate(found_d)


def fused(x: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The kernel's three operations; products of two float32 are exact in float64, and so is x - q0 d here."""
    wide = np.float64
    q0 = (x.astype(wide) * c).astype(np.float32)
    r = (x.astype(wide) - q0.astype(wide) * d).astype(np.float32)
    return fma(r, c, q0)


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """RN32(a b + c): the exact product, then a sum rounded to odd, which rounds to float32 as the exact sum does."""
    product, addend = a.astype(np.float64) * b, c.astype(np.float64)
    high = product + addend
    virtual = high - product
    low = (product - (high - virtual)) + (addend - virtual)
    bits = high.view(np.int64)
    inexact = (low != 0) & ((bits & 1) == 0)
    return np.where(inexact, bits + np.where((low > 0) == (high > 0), 1, -1), bits).view(np.float64).astype(np.float32)


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
