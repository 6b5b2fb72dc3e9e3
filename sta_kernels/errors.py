"""The two kinds of failure, by whose mistake they are; and warnings, which point to the caller."""

from __future__ import annotations

import sys
import warnings


class InputError(ValueError):
    """The caller's mistake: a recipe, a file or an argument that cannot be merged as it stands (exit code 2).

    The message names the tensor, file or key, and says what to do.
    """


class RunError(RuntimeError):
    """The machine's failure: a full disk, a read error, a file that changed while it was read (exit code 1)."""


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line that called into this package, however many of its own functions lie between."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "sta_kernels":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
