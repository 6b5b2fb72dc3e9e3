"""The worked examples on the reference and on the native core; the interpreter has a test of its own."""

from __future__ import annotations

import pytest
from worked_examples import EXAMPLES, Example, check

from sta_kernels.kernels import get_backend


@pytest.mark.parametrize("backend", ["reference", "native"])
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_worked_example(example: Example, backend: str) -> None:
    check(example, get_backend(backend))
