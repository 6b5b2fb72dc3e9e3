"""``sta-kernels verify``: a finished merge, read again and compared with its manifest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sta_kernels.cli.arguments import Parser


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = Parser(
        prog="sta-kernels verify",
        description="Read every file of a finished merge again and compare its digests with the manifest.",
        epilog="example:\n  sta-kernels verify merged/\n\nexit code 0: all as written; 1: differences, each printed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("out", metavar="OUT", help="folder that `sta-kernels merge` wrote")
    return result


def run(argv: Sequence[str]) -> int:
    """Verify; 1 where something differs."""
    arguments = parser().parse_args(argv)
    from sta_kernels.cli import printable
    from sta_kernels.engine import verify

    differences = verify(arguments.out)
    for difference in differences:
        print(f"sta-kernels: {printable(difference)}", file=sys.stderr)
    if differences:
        return 1
    print(f"{arguments.out}: every file is as the merge wrote it")
    return 0
