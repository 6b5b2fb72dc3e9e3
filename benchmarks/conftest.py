"""Options of the benchmarks, and the contest that they are all run as."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import records
from benchmarks.harness import MEASURED, Contest
from benchmarks.summary import contest_table


def pytest_addoption(parser: pytest.Parser) -> None:
    """Sizes and places; the defaults are what the bars are stated for."""
    group = parser.getgroup("sta_kernels")
    group.addoption("--elements", type=int, default=16 << 20, help="elements per tensor (default: 16 Mi)")
    group.addoption("--rounds", type=int, default=30, help="interleaved rounds; fewer for what takes seconds")
    group.addoption("--threads", type=int, default=2, help="threads of the kernels and of PyTorch (default: 2)")
    group.addoption(
        "--results",
        type=Path,
        default=records.RESULTS,
        metavar="DIR",
        help="rows go here (default: benchmarks/results)",
    )


@pytest.fixture(scope="session")
def environment() -> records.Row:
    """What every row says of this run."""
    return records.environment()


@pytest.fixture(scope="session", autouse=True)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.config.getoption("--threads"))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def elements(request: pytest.FixtureRequest) -> int:
    """Elements per tensor."""
    return request.config.getoption("--elements")


@pytest.fixture
def contest(benchmark: Any, request: pytest.FixtureRequest, environment: records.Row) -> Contest:
    """Times an op against its contenders."""
    option = request.config.getoption
    return Contest(benchmark, option("--rounds"), environment, option("--results"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was measured, contenders included: pytest-benchmark's table has the ops alone."""
    if MEASURED:
        terminalreporter.section("contests")
        terminalreporter.write_line(contest_table(MEASURED))
