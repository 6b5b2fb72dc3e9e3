"""Fixtures of the reference's tests."""

from __future__ import annotations

import pytest

from sta_kernels.kernels import numpy_operand


@pytest.fixture
def parts_of_one_leaf(monkeypatch):
    """The least working set, so that a few thousand elements are taken in several parts."""
    monkeypatch.setattr(numpy_operand, "WORKING_SET", 1)
