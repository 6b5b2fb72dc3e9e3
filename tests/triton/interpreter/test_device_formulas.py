"""The cases of tests/gpu on formulas, on tensors in main memory; of merges some, the others are in test_formulas."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "gpu"))

import formula_device_cases
from formula_device_cases import *  # noqa: F403

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture
def device() -> torch.device:
    """Main memory, as the interpreter's device."""
    return torch.device("cpu")


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    every = formula_device_cases.formula_cases
    monkeypatch.setattr(formula_device_cases, "formula_cases", lambda name: every(name)[:1])
