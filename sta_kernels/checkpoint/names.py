"""Names of tensors: the wrappings that training scripts leave behind, removed alike for files and dictionaries.

A checkpoint may hold its state dict under a key (``{"state_dict": …, "epoch": 3}``) and every name of it may carry the
prefix of a wrapper module (``module.`` from data parallelism, ``_orig_mod.`` from compilation). Models are matched, and
merged files written, under the plain names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sta_kernels.errors import InputError

WRAPPER_KEYS = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training scripts and launchers store the state dict."""

WRAPPER_PREFIXES = ("module.", "_orig_mod.", "state_dict.")
"""Prefixes that count as wrappings when every tensor of a model carries them."""

_MAX_NESTING = 4  # a pickle can hold a dictionary that holds itself


def wrapping_prefix(names: Iterable[str]) -> str:
    """Longest chain of :data:`WRAPPER_PREFIXES` that all names share; no name is used up by it.

    Args:
        names: all tensor names of one model.
    """
    rest = list(names)
    prefix = ""
    while rest:
        shared = next((p for p in WRAPPER_PREFIXES if all(n.startswith(p) and n != p for n in rest)), None)
        if shared is None:
            break
        prefix += shared
        rest = [name[len(shared) :] for name in rest]
    return prefix


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Stored name to the one without the prefix that all share, in the order given."""
    stored = list(names)
    start = len(wrapping_prefix(stored))
    return {name: name[start:] for name in stored}


def state_dict_of(state: Any, is_tensor: Callable[[Any], bool], source: str = "state dict") -> Mapping[str, Any]:
    """Find the state dict inside what was saved or given.

    Args:
        state: a state dict, or a mapping that holds one under one of :data:`WRAPPER_KEYS`.
        is_tensor: recognises a tensor (a parameter, so that this module imports no framework).
        source: names the object in errors.

    Returns:
        The innermost mapping that holds the tensors, names as stored; other things may stand beside them.

    Raises:
        InputError: no mapping, no tensor in it, several candidates for the state dict, or a name that is not a string.
    """
    inner = _innermost(state, is_tensor, source)
    for name, value in inner.items():
        if not isinstance(name, str):
            raise InputError(f"{source}: expected tensors by name, but {name!a} is a {type(value).__name__}")
    return inner


def _innermost(state: Any, is_tensor: Callable[[Any], bool], source: str) -> Mapping[str, Any]:
    """Descend through wrapper keys; tensors beside one (a random generator's state) do not make a state dict."""
    if not isinstance(state, Mapping):
        kind = type(state).__name__
        raise InputError(f"{source}: expected a state dict (a mapping of names to tensors), got a {kind}")
    for _ in range(_MAX_NESTING):
        wrapped = [key for key in WRAPPER_KEYS if _holds_tensors(state.get(key), is_tensor)]
        if len(wrapped) > 1:
            raise InputError(f"{source}: the state dict could be any of {', '.join(wrapped)}; save one of them alone")
        if not wrapped:
            break
        state = state[wrapped[0]]
    else:
        raise InputError(f"{source}: the state dict is nested deeper than {_MAX_NESTING} keys")
    if state and not any(is_tensor(value) for value in state.values()):
        keys = ", ".join(ascii(key) for key in list(state)[:8])
        raise InputError(f"{source}: holds no tensors and no state dict; its keys are {keys}")
    return state


def _holds_tensors(value: Any, is_tensor: Callable[[Any], bool]) -> bool:
    """A state dict, or a mapping that may wrap one; a configuration under the key ``model`` is neither."""
    if not isinstance(value, Mapping):
        return False
    return any(is_tensor(item) for item in value.values()) or any(
        isinstance(value.get(key), Mapping) for key in WRAPPER_KEYS
    )
