from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sta_kernels.methods.quantile import rank_of_quantile


@pytest.mark.parametrize(("n", "kept"), [*enumerate((0, 1, 1, 1, 2, 2, 2, 3), 1), (20, 6)])
def test_kept_per_position_at_the_default_p(n: int, kept: int) -> None:
    assert n - rank_of_quantile(0.7, n) == kept


@pytest.mark.parametrize(
    ("p", "n", "k"),
    [
        (0.7, 91, 64),  # 63.99... in float64
        (0.58, 51, 30),  # 29.99... in float64
        (0.7, 25_296_896, 17_707_827),  # one off in float32
        (0.0, 5, 1),
        (1.0, 5, 5),
        (0.3, 1, 1),
        (1e-05, 100_001, 2),  # printed with an exponent
    ],
)
def test_rank_is_exact(p: float, n: int, k: int) -> None:
    assert rank_of_quantile(p, n) == k
    assert rank_of_quantile(np.float64(p), n) == k


@given(st.integers(0, 1000), st.integers(1, 10**9))
def test_rank_is_the_floor_of_the_decimal(thousandths: int, n: int) -> None:
    assert rank_of_quantile(thousandths / 1000, n) == 1 + (n - 1) * thousandths // 1000


@given(st.floats(0, 1), st.integers(1, 2**40))
def test_rank_is_within_the_values(p: float, n: int) -> None:
    k = rank_of_quantile(p, n)
    assert 1 <= k <= n
    assert k <= 1 + (n - 1) * Fraction(str(p)) < k + 1


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan"), float("inf")])
def test_p_outside_the_unit_interval_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match=r"expected a number in \[0, 1\]"):
        rank_of_quantile(p, 3)


def test_nothing_has_no_quantile() -> None:
    with pytest.raises(ValueError, match="quantile of 0 values"):
        rank_of_quantile(0.5, 0)
