"""The demonstration: a pretrained ViT, three image tasks, merged and forgotten from files to files."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; see ``python -m sta_kernels.demo --help``.

    Args:
        argv: the arguments after the program's name; None: the process's own.

    Returns:
        The exit code: 0, 1 (the machine's failure) or 2 (the caller's mistake).
    """
    from sta_kernels.demo.__main__ import main as run

    return run(argv)
