"""Wrappings of names and state dicts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sta_kernels.checkpoint.names import WRAPPER_PREFIXES, plain_names, state_dict_of, wrapping_prefix
from sta_kernels.errors import InputError


class Leaf:
    """Stands for a tensor."""


def is_leaf(value: object) -> bool:
    return isinstance(value, Leaf)


A, B = Leaf(), Leaf()
STATE = {"a": A, "b": B}


@pytest.mark.parametrize(
    ("stored", "plain"),
    [
        ([], []),
        (["a", "b"], ["a", "b"]),
        (["module.a", "module.b"], ["a", "b"]),
        (["module.module.a"], ["a"]),
        (["module._orig_mod.a", "module._orig_mod.b"], ["a", "b"]),
        (["state_dict.module.a"], ["a"]),
        (["module.a", "b"], ["module.a", "b"]),  # not a wrapping: one name lacks it
        (["module.a", "module."], ["module.a", "module."]),  # nothing may be left without a name
        (["modulea", "module.b"], ["modulea", "module.b"]),
        (["model.a", "model.b"], ["model.a", "model.b"]),  # part of the names of most language models
    ],
)
def test_plain_names(stored, plain):
    assert list(plain_names(stored).values()) == plain


@given(st.lists(st.text("ab.", min_size=1), unique=True), st.lists(st.sampled_from(WRAPPER_PREFIXES), max_size=4))
def test_prefixes_on_all_names_change_nothing(names, prefixes):
    wrapped = {"".join(prefixes) + name: name for name in names}
    assert list(plain_names(wrapped).values()) == list(plain_names(names).values())


@given(st.lists(st.sampled_from(["module.a", "a", "module.", "_orig_mod.b", "state_dict.c", "d"]), unique=True))
def test_plain_names_stay_distinct(names):
    assert len(set(plain_names(names).values())) == len(names)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module"])
def test_state_dict_under_a_key(key):
    assert state_dict_of({"epoch": 3, key: STATE, "optimizer": {"state": {}}}, is_leaf) is STATE


@pytest.mark.parametrize(
    ("state", "found"),
    [
        (STATE, STATE),
        ({}, {}),
        ({"module.a": A, "_extra_state": None}, {"module.a": A, "_extra_state": None}),
        ({"state_dict": {"model": STATE}}, STATE),
        ({"model": {"width": 8}, "state_dict": STATE}, STATE),  # a configuration is no state dict
        ({"rng_state": A, "state_dict": STATE}, STATE),  # nor is a tensor beside one
        ({"state_dict": STATE, "model_ema": {"a": B}}, STATE),
    ],
)
def test_state_dict_of(state, found):
    assert state_dict_of(state, is_leaf) == found


def test_prefix():
    assert wrapping_prefix(["module._orig_mod.a", "module._orig_mod.b"]) == "module._orig_mod."
    assert wrapping_prefix([]) == wrapping_prefix(["a", "module.b"]) == ""


def self_containing() -> dict:
    state: dict = {"a": A}
    state["state_dict"] = state
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([A], "got a list"),
        ({"model": STATE, "state_dict": STATE}, "could be any of state_dict, model"),
        ({"epoch": 3, "\x1b[2J": 1}, r"its keys are 'epoch', '\\x1b\[2J'"),
        ({0: A}, "expected tensors by name, but 0 is a Leaf"),
        (self_containing(), "nested deeper"),
    ],
)
def test_refusals(state, message):
    with pytest.raises(InputError, match=f"x.pt.*{message}"):
        state_dict_of(state, is_leaf, "x.pt")
