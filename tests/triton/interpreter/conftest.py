"""The interpreter at two to three times its speed."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from triton.language.core import is_builtin
from triton.runtime import interpreter


@pytest.fixture(scope="session", autouse=True)
def _remembered() -> None:
    """Search the language for what is to be replaced once, not at every call of a function within a kernel.

    Most of the interpreter's time would go there. What is found is the same each time: builtins that no caller has
    replaced yet.
    """
    found: dict[Any, list[tuple[str, Any]]] = {}

    def patch(place: Any, builder: Any, scope: Any) -> None:
        if place not in found:
            found[place] = inspect.getmembers(place, is_builtin)
        for name, builtin in found[place]:
            if getattr(place, name) is builtin:
                interpreter._patch_attr(place, name, builtin, builder, scope)

    interpreter._patch_builtin = patch
