"""Accuracy of merged models: ``python -m benchmarks.accuracy offline --help``, or ``clip``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

SUITES = {"offline": "benchmarks.accuracy.offline.command", "clip": "benchmarks.accuracy.clip.command"}
"""Name of a subcommand to the module whose ``main`` takes its arguments."""


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the arguments to the suite that the first of them names."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] not in SUITES:
        print(f"usage: python -m benchmarks.accuracy {{{','.join(SUITES)}}} …", file=sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    return importlib.import_module(SUITES[arguments[0]]).main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
