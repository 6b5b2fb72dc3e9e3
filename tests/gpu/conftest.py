"""The device of the GPU tests; without one they are skipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sta_kernels.kernels import interpreted

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all of them; skip where nothing can run them."""
    missing = interpreted() or not torch.cuda.is_available()
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.gpu)
            if missing:
                item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU, by its index: that is how its tensors name it."""
    return torch.device("cuda", torch.cuda.current_device())
