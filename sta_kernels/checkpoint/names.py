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


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Map each name to the one without wrapping prefixes; a prefix goes only where all names share it.

    Args:
        names: all tensor names of one model.

    Returns:
        Stored name to plain name, in the order given.
    """
    stored = list(names)
    plain = stored
    while plain:
        prefix = next((p for p in WRAPPER_PREFIXES if all(n.startswith(p) and n != p for n in plain)), None)
        if prefix is None:
            break
        plain = [name[len(prefix) :] for name in plain]
    return dict(zip(stored, plain, strict=True))


def unwrap(
    state: Mapping[str, Any], is_tensor: Callable[[Any], bool], source: str = "state dict"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Find the state dict inside a checkpoint object and remove wrapping prefixes.

    Args:
        state: what was saved: a state dict, or a mapping that holds one under one of :data:`WRAPPER_KEYS`.
        is_tensor: recognises a tensor (kept a parameter so that this module imports no framework).
        source: names the object in errors.

    Returns:
        Plain name to tensor, and stored name to whatever else stood beside the tensors (``_extra_state`` and the like).

    Raises:
        InputError: no tensor, two candidates for the state dict, or a name that is not a string.
    """
    inner = state_dict_of(state, is_tensor, source)
    plain = plain_names(name for name, value in inner.items() if is_tensor(value))
    tensors = {plain[name]: value for name, value in inner.items() if name in plain}
    others = {name: value for name, value in inner.items() if name not in plain}
    return tensors, others


def state_dict_of(state: Any, is_tensor: Callable[[Any], bool], source: str = "state dict") -> Mapping[str, Any]:
    """The innermost mapping that holds the tensors, its names as stored; arguments and errors as :func:`unwrap`."""
    inner = _innermost(state, is_tensor, source)
    for name in inner:
        if not isinstance(name, str):
            raise InputError(f"{source}: the key {name!r} is not a string")
    return inner


def _innermost(state: Any, is_tensor: Callable[[Any], bool], source: str) -> Mapping[str, Any]:
    """Descend through wrapper keys; tensors beside one (a random generator's state) do not make a state dict."""
    if not isinstance(state, Mapping):
        raise InputError(f"{source}: a mapping of names to tensors is expected, not {type(state).__name__}")
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
