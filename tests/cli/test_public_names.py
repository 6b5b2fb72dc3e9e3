"""The public names: all there, lazily, and none hidden by a module of the same name."""

from __future__ import annotations

import pkgutil
import types
from importlib import import_module

import pytest

import sta_kernels as sk


@pytest.mark.parametrize("name", sk.__all__)
def test_every_public_name_is_there(name: str):
    assert getattr(sk, name) is getattr(sk, name)
    assert name in dir(sk)


def test_only_public_names_are_listed():
    assert dir(sk) == sorted(sk.__all__)


def test_functions_are_not_hidden_by_modules():
    """Importing a submodule binds it as an attribute of the package, over any function of that name."""
    modules = {module.name for module in pkgutil.iter_modules(sk.__path__)}
    assert modules & set(sk.__all__) == {"ops"}
    for name in ("merging", "engine", "taylor", "recipe"):
        import_module(f"sta_kernels.{name}")
    assert isinstance(sk.merge, types.FunctionType)
    assert isinstance(sk.importance, types.FunctionType)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'mrege'"):
        sk.mrege  # noqa: B018
