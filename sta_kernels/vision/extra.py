"""Libraries that only the extra ``clip`` brings."""

from __future__ import annotations

import importlib
from typing import Any

from sta_kernels.errors import InputError


def need(module: str) -> Any:
    """Import a library of the extra.

    Raises:
        InputError: it is not installed; says how it is.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise  # it is there, and lacks something of its own
        raise InputError(missing(error.name)) from None


def missing(library: str) -> str:
    """What to say where a library is not there."""
    return f"{library} is needed for this and is not installed: pip install '.[clip]' in a clone"
