"""The interpreter at a multiple of its speed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import triton.language as tl
from triton.runtime import interpreter


@pytest.fixture(scope="session", autouse=True)
def _patched_once() -> None:
    """Prepare the language when a kernel is launched, not again at each call of a function within it.

    Most of the interpreter's time would go there, and it would find everything prepared already.
    """
    patch, compiled_range = interpreter._patch_lang, tl.range

    @functools.cache
    def modules(function: Callable[..., Any]) -> list[Any]:
        return [module for module in (tl, tl.core) if any(each is module for each in function.__globals__.values())]

    def patch_once(function: Callable[..., Any]) -> Any:
        if all(module.range is not compiled_range for module in modules(function)):
            return interpreter._LangPatchScope()
        return patch(function)

    interpreter._patch_lang = patch_once
