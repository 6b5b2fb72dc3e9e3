"""The methods' worked examples by Triton's kernels, interpreted."""

from __future__ import annotations

import pytest
from worked_examples import EXAMPLES, Example, check

from sta_kernels.kernels.triton.backend import TritonBackend

BACKEND = TritonBackend("cpu")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_worked_example(example: Example) -> None:
    check(example, BACKEND)
