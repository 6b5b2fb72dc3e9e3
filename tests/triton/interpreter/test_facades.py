"""State dicts, checkpoints and importances on Triton's kernels, on tensors in main memory: the cases of tests/gpu."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "gpu"))

from device_operands import count_fast_blocks
from facade_cases import *  # noqa: F403

from sta_kernels.kernels import ENVIRONMENT_VARIABLE


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> torch.device:
    """Main memory, as the interpreter's device; checkpoints choose their device themselves."""
    if "checkpoints" not in request.node.name:
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, "triton")
    return torch.device("cpu")


@pytest.fixture(autouse=True)
def _on_the_fast_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """STA of whole blocks takes its fast path."""
    seen = count_fast_blocks(monkeypatch)
    yield
    if request.node.name in ("test_merging_state_dicts[sta]", "test_checkpoints_merge_to_the_same_files[sta]"):
        assert seen
