"""What was observed of every attack, for the table in docs/reliability.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attacks.observing import OBSERVED, Observation


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--observations FILE``: keep what was observed."""
    parser.addoption("--observations", type=Path, help="write every attack's outcome to this file, as JSON")


@pytest.fixture(scope="session")
def observations(pytestconfig: pytest.Config) -> list[Observation]:
    """To which every attack adds what came of it."""
    return pytestconfig.stash.setdefault(OBSERVED, [])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write them down; of one process, so that the order is that of the tests."""
    path = session.config.getoption("--observations", None)
    if path is not None and OBSERVED in session.config.stash:
        rows = [each.to_json() for each in session.config.stash[OBSERVED]]
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
