"""The choice of backend: native C++ on a CPU, the NumPy reference where that cannot serve."""

from __future__ import annotations

import functools
import os
import warnings
from dataclasses import dataclass

from sta_kernels.errors import InputError, RunError
from sta_kernels.kernels.backend import Backend

ENVIRONMENT_VARIABLE = "STA_KERNELS_BACKEND"
CPU_BACKENDS = ("native", "reference")


@dataclass(frozen=True)
class Choice:
    """Which backend serves, and why."""

    name: str
    reason: str


def default_threads() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def native_problem() -> str | None:
    """Why the native core cannot serve, or None when it can."""
    from sta_kernels.kernels import native

    try:
        native.load_core()
    except OSError as error:
        return str(error)
    return None


def choose(name: str | None = None) -> Choice:
    """Decide on a backend without building it.

    Args:
        name: "native" or "reference"; None reads the environment variable STA_KERNELS_BACKEND, and without it takes
            the fastest that can serve.

    Raises:
        InputError: the name is unknown.
        RunError: a backend was asked for by name and cannot serve.
    """
    source = "asked for by the caller"
    if name is None:
        name = os.environ.get(ENVIRONMENT_VARIABLE) or None
        source = f"{ENVIRONMENT_VARIABLE}={name}"
    if name is None:
        problem = native_problem()
        if problem is None:
            return Choice("native", "the native core was built and loads")
        return Choice("reference", f"no native core: {problem}")
    if name not in CPU_BACKENDS:
        raise InputError(f"unknown backend {name!r} ({source}); known: {', '.join(CPU_BACKENDS)}")
    if name == "native" and (problem := native_problem()) is not None:
        raise RunError(f"the native backend was {source}, but it cannot serve: {problem}")
    return Choice(name, source)


def get_backend(name: str | None = None) -> Backend:
    """The backend for tensors in this computer's memory; the arguments and errors are those of :func:`choose`.

    Falling back from the native core to the NumPy reference warns once: same bits, many times slower.
    """
    if name is None:
        name = os.environ.get(ENVIRONMENT_VARIABLE) or None
    return _build(name)


@functools.cache
def _build(name: str | None) -> Backend:
    choice = choose(name)
    if choice.name == "native":
        from sta_kernels.kernels.native import NativeBackend

        return NativeBackend()
    from sta_kernels.kernels.numpy_backend import NumpyBackend

    if name is None:
        warnings.warn(
            f"sta_kernels runs on its NumPy reference, with the same bits but many times slower ({choice.reason})",
            RuntimeWarning,
            stacklevel=3,
        )
    return NumpyBackend()
