"""Wrappings of names and state dicts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sta_kernels.checkpoint.names import WRAPPER_PREFIXES, plain_names, unwrap
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
def test_unwrap_finds_the_state_dict(key):
    assert unwrap({"epoch": 3, key: STATE, "optimizer": {"state": {}}}, is_leaf) == (STATE, {})


@pytest.mark.parametrize(
    ("state", "tensors", "others"),
    [
        (STATE, STATE, {}),
        ({}, {}, {}),
        ({"module.a": A, "module.b": B}, STATE, {}),
        ({"module.a": A, "module.b": B, "module._extra_state": None}, STATE, {"module._extra_state": None}),
        ({"state_dict": {"model": STATE}}, STATE, {}),
        ({"model": {"width": 8}, "state_dict": STATE}, STATE, {}),  # a configuration is no state dict
        (
            {"rng_state": A, "state_dict": {"b": B}},
            {"b": B},
            {},
        ),  # a tensor beside the state dict is not the state dict
        ({"state_dict": {"module.a": A}, "model_ema": STATE}, {"a": A}, {}),
    ],
)
def test_unwrap(state, tensors, others):
    assert unwrap(state, is_leaf) == (tensors, others)


def test_unwrap_keeps_its_argument():
    state = {"state_dict": {"module.a": A}}
    unwrap(state, is_leaf)
    assert state == {"state_dict": {"module.a": A}}


def self_containing() -> dict:
    state: dict = {"a": A}
    state["state_dict"] = state
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([A], "not list"),
        ({"model": STATE, "state_dict": STATE}, "could be any of state_dict, model"),
        ({"epoch": 3, "\x1b[2J": 1}, r"its keys are 'epoch', '\\x1b\[2J'"),
        ({0: A}, "the key 0 is not a string"),
        (self_containing(), "nested deeper"),
    ],
)
def test_unwrap_refuses(state, message):
    with pytest.raises(InputError, match=f"x.pt.*{message}"):
        unwrap(state, is_leaf, "x.pt")
