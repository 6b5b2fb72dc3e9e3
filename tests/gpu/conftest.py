"""The device of the GPU tests; without one they are skipped, or, with ``--require-gpu``, nothing is run at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sta_kernels.engine.devices import gpu_problem

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """For those who come for these tests alone: to skip them all is no success."""
    parser.addoption("--require-gpu", action="store_true", help="end with exit code 2 where there is no GPU")


def pytest_configure(config: pytest.Config) -> None:
    """End before anything is collected."""
    if config.getoption("require_gpu", default=False) and (problem := gpu_problem()) is not None:
        pytest.exit(f"no GPU to test on: {problem}", returncode=2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all of them; skip where nothing can run them."""
    here = [item for item in items if item.path.parent == HERE]
    problem = gpu_problem() if here else None
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if problem is not None:
            item.add_marker(pytest.mark.skip(reason=f"no GPU: {problem}"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU, by its index: that is how its tensors name it."""
    return torch.device("cuda", torch.cuda.current_device())
