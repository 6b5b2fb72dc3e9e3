"""The interpreter's switch is read as Triton reads it."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

import triton
from triton import knobs

from sta_kernels import kernels
from sta_kernels.kernels import interpreted

WORDS = ("1", "true", "on", "yes", "y", "t", "enable", "2", "01", "-1", "0", "false", "off", "no", "n", "", " 1", "1 ")


@pytest.mark.parametrize("value", sorted({form(word) for word in WORDS for form in (str, str.upper, str.title)}))
def test_a_value_means_what_it_means_to_triton(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", value)
    assert interpreted() == knobs.runtime.interpret


def test_both_answers_occur(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = []
    for value in ("yes", "no"):
        monkeypatch.setenv("TRITON_INTERPRET", value)
        answers.append(knobs.runtime.interpret)
    monkeypatch.delenv("TRITON_INTERPRET")
    assert not interpreted()
    assert answers == [True, False]


def test_an_older_triton_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "__version__", "3.3.1")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert "Triton 3.3.1 is older than 3.8" in kernels.triton_problem("cuda")
