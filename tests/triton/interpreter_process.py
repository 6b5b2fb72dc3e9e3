"""Runs test files where Triton interprets its kernels, each in a fork of this process: what is costly is imported once.

Reads lines of a file to run and a file for what the run says, and answers each with pytest's exit code.
"""

from __future__ import annotations

import os
import sys

import pytest

import sta_kernels.kernels.triton.backend
import sta_kernels.ops  # noqa: F401


def run(file: str) -> int:
    """Run the tests of a file."""
    return int(pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", file]))


def main() -> None:
    """Serve until the input ends."""
    for line in sys.stdin:
        file, said = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            with open(said, "w", encoding="utf-8") as out:
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
                code = run(file)
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
