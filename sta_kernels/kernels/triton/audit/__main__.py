"""Audit the kernels by hand: ``python -m sta_kernels.kernels.triton.audit [--all] [--arch sm_90]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import as_completed

from sta_kernels.kernels.triton.audit.cases import covering, every_case
from sta_kernels.kernels.triton.audit.checks import RULES
from sta_kernels.kernels.triton.audit.compile import Report, auditing
from sta_kernels.kernels.triton.audit.table import LEGEND, table
from sta_kernels.kernels.triton.audit.targets import AUDITED, TARGETS

_KNOWN = ", ".join(TARGETS)


def architecture(name: str) -> str:
    """A key of :data:`TARGETS`, from the command line."""
    if name not in TARGETS:
        raise argparse.ArgumentTypeError(
            f"{name!r} is not known here; known: {_KNOWN}. sm_86 and sm_89 run sm_80's machine code: take that"
        )
    return name


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    result = argparse.ArgumentParser(
        prog="python -m sta_kernels.kernels.triton.audit",
        description="Compile the GPU kernels for chips that need not be there, print what their machine code is made "
        f"of and a model of its speed, and hold it against the rules of docs/gpu-audit.md ({', '.join(AUDITED)}).",
        epilog="Exit codes: 0: no rule is broken; 1: one is, and the last lines say where. Takes a minute.",
    )
    result.add_argument("--all", action="store_true", help="every kernel that launches choose among; takes long")
    result.add_argument(
        "--arch",
        action="append",
        type=architecture,
        metavar="ARCH",
        help=f"one of {_KNOWN}; may be given several times (default: all of them)",
    )
    return result


def verdict(reports: Sequence[Report]) -> tuple[list[str], bool]:
    """What is to be said after the table, and whether no rule is broken."""
    held = [report for report in reports if report.arch in AUDITED]
    faults = [f"{rule.__name__}: {fault}" for report in held for rule in RULES for fault in rule(report)]
    shown = dict.fromkeys(report.arch for report in reports if report.arch not in AUDITED)
    lines = [f"{', '.join(shown)}: compiled and shown; the rules are not held against it"] if shown else []
    if faults:
        return [*lines, *faults, f"rules are broken: {len(faults)} faults"], False
    if held:
        lines.append(f"all rules hold: {len(held)} kernels, {', '.join(dict.fromkeys(one.arch for one in held))}")
    return lines, True


def main(argv: Sequence[str] | None = None) -> int:
    """Compile, print, and return 1 where a rule is broken."""
    from tqdm import tqdm

    arguments = parser().parse_args(argv)
    archs = dict.fromkeys(arguments.arch or TARGETS)
    pairs = [(case, arch) for case in every_case() for arch in archs] if arguments.all else covering(archs)
    with auditing(pairs) as audited:
        for done in tqdm(as_completed(audited.values()), "compiling", len(pairs), unit="kernel", file=sys.stderr):
            done.result()
        reports = [audited[pair].result() for pair in pairs]
    print(table(reports))
    lines, good = verdict(reports)
    print("", LEGEND, "", *lines, sep="\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
