"""``sta-kernels report``: a finished merge as an HTML page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sta_kernels.cli.arguments import Parser

_EPILOG = """\
example:
  sta-kernels report merged/

Writes merged-report/report.html, one file that needs no other, and its pictures as PNGs. All models and importances are
read again, which takes several times as long as the merge; --no-inputs leaves that out.
"""


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = Parser(
        prog="sta-kernels report",
        description="Describe a finished merge in one HTML page: what each model gave to it by layer and type, overlap "
        "of the selections, norms and angles, contested tensors, recipe and digests. Needs matplotlib and Jinja2.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("merged", metavar="OUT", help="folder that `sta-kernels merge` wrote")
    result.add_argument("--out", metavar="DIR", help="folder for the report (default: OUT-report, beside it)")
    result.add_argument("--overwrite", action="store_true", help="replace the report that the folder holds")
    result.add_argument(
        "--no-inputs",
        dest="inputs",
        action="store_false",
        help="do not read the models again: leaves out overlap, norms, angles and contested tensors",
    )
    return result


def run(argv: Sequence[str]) -> int:
    """Write the report, and say where it is."""
    arguments = parser().parse_args(argv)
    from sta_kernels.cli.progress import Progress
    from sta_kernels.report import write_report

    with Progress() as progress:
        page = write_report(
            arguments.merged,
            arguments.out,
            overwrite=arguments.overwrite,
            inputs=arguments.inputs,
            progress=progress,
        )
    print(page)
    return 0
