"""Print the audit's table: ``python -m sta_kernels.kernels.triton.audit [--all] [--arch sm_90]``."""

from __future__ import annotations

import argparse
import sys

from sta_kernels.kernels.triton.audit.checks import broken
from sta_kernels.kernels.triton.audit.compile import auditing
from sta_kernels.kernels.triton.audit.families import COVERING, every_case
from sta_kernels.kernels.triton.audit.table import table
from sta_kernels.kernels.triton.audit.targets import AUDITED, TARGETS


def main() -> int:
    """Compile, print, and return 1 where a rule is broken."""
    parser = argparse.ArgumentParser(prog="python -m sta_kernels.kernels.triton.audit", description=__doc__)
    parser.add_argument(
        "--all", action="store_true", help="every combination that launches choose among; takes minutes"
    )
    parser.add_argument("--arch", action="append", choices=list(TARGETS), help="default: all of them; may be repeated")
    arguments = parser.parse_args()
    cases = every_case() if arguments.all else COVERING
    pairs = [(case, arch) for case in cases for arch in arguments.arch or TARGETS]
    with auditing(pairs) as audited:
        reports = [audited[pair].result() for pair in pairs]
    print(table(reports))
    faults = [fault for report in reports if report.arch in AUDITED for fault in broken(report)]
    print(*faults, sep="\n", file=sys.stderr, end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
