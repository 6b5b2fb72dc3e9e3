"""Audit the kernels by hand: ``python -m sta_kernels.kernels.triton.audit [--all] [--arch sm_90]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass

from sta_kernels.kernels.triton.audit.cases import covering, every_case
from sta_kernels.kernels.triton.audit.checks import RULES
from sta_kernels.kernels.triton.audit.compile import Report, auditing
from sta_kernels.kernels.triton.audit.table import LEGEND, aligned, row
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


@dataclass(frozen=True)
class Line:
    """What is kept of a report: its line in the table, and what breaks a rule.

    Attributes:
        arch: that it was compiled for.
        cells: of the table.
        faults: with the names of the rules.
    """

    arch: str
    cells: tuple[str, ...]
    faults: tuple[str, ...]

    @classmethod
    def of(cls, report: Report) -> Line:
        """The line of a report; no fault where the rules are not held against the architecture."""
        rules = RULES if report.arch in AUDITED else ()
        faults = tuple(f"{rule.__name__}: {fault}" for rule in rules for fault in rule(report))
        return cls(report.arch, row(report), faults)


def verdict(lines: Sequence[Line]) -> tuple[list[str], bool]:
    """What is to be said after the table, and whether no rule is broken."""
    held = [line for line in lines if line.arch in AUDITED]
    faults = [fault for line in held for fault in line.faults]
    shown = dict.fromkeys(line.arch for line in lines if line.arch not in AUDITED)
    said = [f"{', '.join(shown)}: compiled and shown; the rules are not held against it"] if shown else []
    if faults:
        return [*said, *faults, f"rules are broken: {len(faults)} faults"], False
    if held:
        said.append(f"all rules hold: {len(held)} kernels, {', '.join(dict.fromkeys(one.arch for one in held))}")
    return said, True


def main(argv: Sequence[str] | None = None) -> int:
    """Compile, print, and return 1 where a rule is broken."""
    from tqdm import tqdm

    arguments = parser().parse_args(argv)
    archs = dict.fromkeys(arguments.arch or TARGETS)
    pairs = [(case, arch) for case in every_case() for arch in archs] if arguments.all else covering(archs)
    with auditing(pairs, Line.of) as audited:
        for done in tqdm(as_completed(audited.values()), "compiling", len(pairs), unit="kernel", file=sys.stderr):
            done.result()
        lines = [audited[pair].result() for pair in pairs]
    print(aligned(line.cells for line in lines))
    said, good = verdict(lines)
    print("", LEGEND, "", *said, sep="\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
