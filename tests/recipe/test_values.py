"""Numbers, gradients and filters."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sta_kernels.errors import InputError
from sta_kernels.methods.parameters import boolean, choice, count, number, quantile
from sta_kernels.recipe.document import from_text
from sta_kernels.recipe.values import read_setting


def value(text: str, name: str = "x", depth: Fraction | int = 0, check: Any = number) -> Any:
    return read_setting(from_text(text, "r").mapping()["v"], check).at(name, Fraction(depth))


def test_a_number_is_itself_everywhere():
    assert value("v: 0.3", depth=Fraction(1, 3)) == 0.3


@pytest.mark.parametrize(
    ("text", "expected"), [("1e-3", 1e-3), ("-2E+1", -20.0), (".5e1", 5.0), ("1.e2", 100.0), ("'0.5'", 0.5)]
)
def test_quoted_numbers_and_exponents_without_a_dot_are_numbers(text: str, expected: float):
    assert value(f"v: {text}") == expected


@pytest.mark.parametrize(
    ("depth", "expected"), [(0, 0.0), (Fraction(1, 4), 0.25), (Fraction(1, 2), 0.5), (Fraction(3, 4), 0.75), (1, 1.0)]
)
def test_gradient_over_two(depth: Fraction, expected: float):
    assert value("v: [0, 1]", depth=depth) == expected


def test_gradient_over_three_turns_in_the_middle():
    assert [value("v: [1, 0.7, 0.1]", depth=Fraction(i, 4)) for i in range(5)] == [1, 0.85, 0.7, 0.4, 0.1]


def test_gradient_of_one_is_constant():
    assert value("v: [0.4]", depth=1) == 0.4


def test_gradient_is_exact_in_decimals():
    """A p of 0.7 must stay 0.7: the rank is taken from the decimal."""
    assert value("v: [0.7, 0.7]", depth=Fraction(1, 3), check=quantile) == 0.7
    assert value("v: [0.1, 0.5]", depth=Fraction(1, 2)) == 0.3
    assert value("v: [0, 1]", depth=Fraction(3, 10)) == 0.3


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=5), st.fractions(0, 1))
def test_gradient_is_linear_interpolation(values: list[float], depth: Fraction):
    position = float(depth) * (len(values) - 1)
    low = min(int(position), max(len(values) - 2, 0))
    high = min(low + 1, len(values) - 1)
    expected = values[low] + (values[high] - values[low]) * (position - low)
    text = "v: [" + ", ".join(map(repr, values)) + "]"
    assert value(text, depth=depth) == pytest.approx(expected, abs=1e-12)
    assert min(values) <= value(text, depth=depth) <= max(values)


def test_whole_numbers_stay_whole_between_whole_numbers():
    assert value("v: [1, 3]", depth=Fraction(1, 2), check=count) == 2
    assert isinstance(value("v: [1, 3]", depth=Fraction(1, 2), check=count), int)


def test_words_and_switches_step():
    text = "v: [lp, amp, lp_amp]"
    found = [value(text, depth=Fraction(i, 4), check=choice("lp", "amp", "lp_amp")) for i in range(5)]
    assert found == ["lp", "lp", "amp", "amp", "lp_amp"]
    assert value("v: [true, false]", depth=Fraction(99, 100), check=boolean) is True


def test_zero_and_one_are_switches_where_a_switch_is_expected():
    assert value("v: 1", check=boolean) is True
    assert value("v: 0.0", check=boolean) is False
    assert value("v: 1", check=number) == 1.0
    with pytest.raises(InputError, match="expected true or false, got 2"):
        value("v: 2", check=boolean)


FILTERS = "v: [{filter: attn, value: [0, 1]}, {filter: mlp, value: 2}, {value: 3}]"


@pytest.mark.parametrize(
    ("name", "expected"), [("l.0.attn.q", 0.5), ("l.0.mlp.up", 2), ("norm", 3), ("l.0.attn.mlp", 0.5), ("", 3)]
)
def test_the_first_matching_filter_counts(name: str, expected: float):
    assert value(FILTERS, name, Fraction(1, 2)) == expected


def test_no_match_gives_none():
    assert value("v: [{filter: attn, value: 1}]", "mlp") is None
    assert value("v: {filter: attn, value: 1}", "mlp") is None


@pytest.mark.parametrize("pattern", ["'*'", "null"])
def test_a_star_or_no_filter_matches_everything(pattern: str):
    assert value(f"v: [{{filter: {pattern}, value: 1}}]", "anything") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v: x", "r:1: v: expected a finite float32 number, got 'x'"),
        ("v:", "r:1: v: expected a single value, not nothing"),
        ("v: []", "r:1: v: an empty list"),
        ("v: .nan", "r:1: v: expected a finite number"),
        ("v: 1e999", "r:1: v: expected a finite number"),
        ("v: 1e39", "finite float32"),
        ("v: true", "got True"),
        ("v: [1,\n    x]", "r:2: v[1]: expected"),
        ("v: [1, [2]]", "v[1]: expected a single value, not a list"),
        ("v: [1, {value: 2}]", "v[0]: expected a mapping"),
        ("v: [{filter: a}]", "v[0]: an entry needs `value`"),
        ("v: [{filter: a, valeu: 1}]", "v[0].valeu: not understood"),
        ("v: [{filter: 3, value: 1}]", "v[0].filter: expected a string, not 3"),
        ("v: [{value: [{value: 1}]}]", "v[0].value[0]: expected a single value"),
        ("v: [{value: {value: 1}}]", "v[0].value: expected a number or a list"),
        ("v: [{value: []}]", "v[0].value: an empty list"),
    ],
)
def test_refused(text: str, message: str):
    with pytest.raises(InputError) as caught:
        value(text)
    assert message in str(caught.value)
