"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from sections import SECTIONS

# Torch's threads wait for work without keeping a processor busy, which other tests and processes could use; read when
# torch is imported, by processes that tests start as well.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

settings.register_profile("no-deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no-deadline")


class WorkedExample:
    """A base and three task vectors in eighths, exact in every dtype."""

    base = np.array((8, -16, 4, 0, 24, -8), np.float32) / 8
    taus = np.array(((4, -1, 0, 3, -6, 2), (-2, -5, 1, 3, 6, -1), (1, 3, -2, -3, 0, 4)), np.float32) / 8
    finetuned = base + taus
    importances_a = np.array(((0, 4, 8, 2), (1, 1, 5, 3), (2, 6, 10, 2)), np.float32)
    importances_b = np.array(((3, 3), (0, 9), (5, 1)), np.float32)
    importances = np.concatenate((importances_a, importances_b), axis=1)
    split = 4


@pytest.fixture(scope="session")
def FX() -> WorkedExample:
    """The worked example on which every method is checked by hand."""
    return WorkedExample()


def pytest_configure(config: pytest.Config) -> None:
    """Make room for what tests have to say."""
    config.stash[SECTIONS] = {}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand it from a worker process to the one that prints."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["sections"] = session.config.stash[SECTIONS]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take it from a worker process, which a crash may have kept from saying anything."""
    node.config.stash[SECTIONS].update(getattr(node, "workeroutput", {}).get("sections", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print it."""
    for title, text in config.stash[SECTIONS].items():
        terminalreporter.section(title)
        terminalreporter.write_line(text)
