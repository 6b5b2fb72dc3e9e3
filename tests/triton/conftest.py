"""Triton's kernels on a machine without a GPU: interpreted, compiled ahead of time, audited."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sta_kernels.kernels import interpreted

# What is imported for the interpreter cannot be compiled, and the other way round.
collect_ignore = [] if interpreted() else ["interpreter"]

_REPORTS = pytest.StashKey[dict[Any, Any]]()


@pytest.fixture(scope="session")
def audited(pytestconfig: pytest.Config) -> Iterator[dict[Any, Any]]:
    """Reports to come of the covering set on every architecture, compiled in processes of their own."""
    from sta_kernels.kernels.triton.audit.compile import auditing
    from sta_kernels.kernels.triton.audit.families import COVERING
    from sta_kernels.kernels.triton.audit.targets import TARGETS

    with auditing([(case, arch) for case in COVERING for arch in TARGETS]) as reports:
        pytestconfig.stash[_REPORTS] = reports
        yield reports


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the audit's table."""
    futures = config.stash.get(_REPORTS, {}).values()
    done = [one.result() for one in futures if one.done() and not one.cancelled() and not one.exception()]
    if done:
        from sta_kernels.kernels.triton.audit.table import table

        terminalreporter.section("kernels compiled ahead of time, docs/gpu-audit.md")
        terminalreporter.write_line(table(done))
