"""What values a method's knobs take, and the knobs that several methods share.

A check returns the value in its own type, or raises ValueError saying what is expected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sta_kernels.kernels.buffers import MEASURES
from sta_kernels.methods.base import Parameter
from sta_kernels.methods.quantile import check_quantile

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_COUNTS = 2**31
_SEEDS = 2**64


def number(value: Any) -> float:
    """A real number that float32 can hold."""
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not is_number or not abs(value) <= _FLOAT32_MAX:
        raise ValueError(f"expected a finite float32 number, got {value!r}")
    # A NumPy float32 stands for the decimal that it prints, as a Python float does.
    return float(str(value)) if isinstance(value, np.floating) else float(value)


def quantile(value: Any) -> float:
    """A number in [0, 1]."""
    return check_quantile(number(value))


def nonnegative(value: Any) -> float:
    """A number, zero or more."""
    found = number(value)
    if found < 0:
        raise ValueError(f"expected a number, zero or more, got {value!r}")
    return found


def count(value: Any) -> int:
    """A whole number in [0, 2³¹)."""
    return _whole(value, _COUNTS, "2³¹")


def seed(value: Any) -> int:
    """A whole number in [0, 2⁶⁴), the keys that random draws have."""
    return _whole(value, _SEEDS, "2⁶⁴")


def _whole(value: Any, stop: int, written: str) -> int:
    # An integer stays one all the way: a float tells no two of them apart from 2⁵³ on.
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    found = value if is_integer else number(value)
    if not 0 <= found < stop or found != int(found):
        raise ValueError(f"expected a whole number, zero or more and below {written}, got {value!r}")
    return int(found)


def boolean(value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"expected true or false, got {value!r}")
    return bool(value)


def choice(*options: Any) -> Callable[[Any], Any]:
    """A check for one of ``options``."""

    def check(value: Any) -> Any:
        if value not in options:
            raise ValueError(f"expected {' or '.join(map(str, options))}, got {value!r}")
        return value

    return check


P = Parameter("p", quantile, 0.7, summary="quantile of the importances below which an entry is dropped, in [0, 1]")
MEASURE = Parameter("measure", choice(*MEASURES), "lp", summary="lp: |θ|·Σ|g|; amp: θ²; lp_amp: both multiplied")
WEIGHT = Parameter("weight", number, 1.0, per_model=True, summary="factor of each model")
LAMBDA = Parameter("lambda_", number, 1.0, summary="factor of the sum over the models")
