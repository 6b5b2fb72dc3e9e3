"""The two kinds of failure, by whose mistake they are."""

from __future__ import annotations


class InputError(ValueError):
    """The caller's mistake: a recipe, a file or an argument that cannot be merged as it stands (exit code 2).

    The message names the tensor, file or key, and says what to do.
    """


class RunError(RuntimeError):
    """The machine's failure: a full disk, a read error, a file that changed while it was read (exit code 1)."""
