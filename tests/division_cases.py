"""Quotients next to a rounding boundary, for the proof that dividing by an invariant in three operations is exact.

With c = RN(1/d), q0 = RN(x c), r = RN(x - q0 d), q = RN(q0 + r c). For mantissas in [1, 2), q0 is off by at most
1.5 units in the last place and r by at most one unit of its own, so that q0 + r c is off x/d by less than 7 * 2^-25
units. A quotient lies j / (2 D) units from a rounding boundary, D = 2^23 d an integer below 2^24, j an integer. So only
where |j| is below 8 can q differ from RN(x/d), and those x follow from a congruence modulo D.
"""

from __future__ import annotations

import numpy as np

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


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """RN32(a b + c): the exact product, then a sum rounded to odd, which rounds to float32 as the exact sum does."""
    with np.errstate(all="ignore"):
        product, addend = a.astype(np.float64) * b, c.astype(np.float64)
        high = product + addend
        virtual = high - product
        low = (product - (high - virtual)) + (addend - virtual)
        bits = high.view(np.int64)
        inexact = (low != 0) & ((bits & 1) == 0) & np.isfinite(high)
        odd = np.where(inexact, bits + np.where((low > 0) == (high > 0), 1, -1), bits).view(np.float64)
        return odd.astype(np.float32)
