"""The native backend on every instruction set that this build and processor have."""

from __future__ import annotations

import pytest

from sta_kernels.kernels import native_problem
from sta_kernels.kernels.native import NativeBackend, available_isas
from sta_kernels.kernels.numpy_backend import NumpyBackend

if native_problem() is None:
    ISAS = available_isas()
else:  # an install without a compiler: the tests of the core say so instead of passing
    ISAS = ()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the core, every test of this folder is skipped with the reason."""
    problem = native_problem()
    if problem is not None:
        for item in items:
            if "/tests/native/" in item.path.as_posix():
                item.add_marker(pytest.mark.skip(reason=problem))


@pytest.fixture(scope="session")
def reference() -> NumpyBackend:
    """What every kernel must reproduce."""
    return NumpyBackend()


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    """One instruction set after the other."""
    return request.param


@pytest.fixture
def native(isa: str) -> NativeBackend:
    """The backend on that instruction set."""
    return NativeBackend(isa)
