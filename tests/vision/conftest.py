"""The small model, once per process."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor
from vision_cases import nudged, small_spec, state_of

from sta_kernels.vision import Clip, build


@pytest.fixture(scope="session")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    return small_spec(tmp_path_factory.mktemp("spec"))


@pytest.fixture(scope="session")
def weights(spec: str) -> dict[str, Tensor]:
    return nudged(state_of(spec), 0)  # biases are no longer 0


@pytest.fixture
def clip(spec: str, weights: dict[str, Tensor]) -> Clip:
    """A model of its own for each test, always the same one."""
    result = build(spec)
    result.model.load_state_dict(weights)
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
