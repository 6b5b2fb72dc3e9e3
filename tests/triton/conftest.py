"""Triton's kernels on a machine without a GPU: interpreted, compiled ahead of time, audited."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sections import SECTIONS

from sta_kernels.kernels import interpreted

# What is imported for the interpreter cannot be compiled, and the other way round.
collect_ignore = [] if interpreted() else ["interpreter"]


@pytest.fixture(scope="session")
def audited(pytestconfig: pytest.Config) -> Iterator[dict[Any, Any]]:
    """Reports to come of the covering set, compiled in processes of their own.

    The run's summary shows their table.
    """
    from sta_kernels.kernels.triton.audit.cases import covering
    from sta_kernels.kernels.triton.audit.compile import auditing
    from sta_kernels.kernels.triton.audit.table import table
    from sta_kernels.kernels.triton.audit.targets import TARGETS

    with auditing(covering(TARGETS)) as reports:
        yield reports
        done = [one.result() for one in reports.values() if one.done() and not one.cancelled() and not one.exception()]
        if done:
            pytestconfig.stash[SECTIONS]["kernels compiled ahead of time, docs/gpu-audit.md"] = table(done)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one process have all tests that share the compilations; begin with what takes longest.

    Whole files are one test each where they are interpreted: of two processes, none is to be left with the last alone.
    """
    items.sort(key=lambda item: item.path.name != "test_interpreter.py")
    for item in items:
        if "audited" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("audited"))
