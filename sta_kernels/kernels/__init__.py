"""The choice of backend by where the bytes are: Triton on a GPU, native C++ or the NumPy reference on a CPU."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import warnings
from dataclasses import dataclass

from sta_kernels.errors import InputError, RunError
from sta_kernels.kernels.backend import Backend

ENVIRONMENT_VARIABLE = "STA_KERNELS_BACKEND"
BACKENDS = ("native", "triton", "reference")
LEAST_TRITON = (3, 8)
"""Oldest version of Triton that the kernels are tested with."""
_INTERPRETER_VARIABLE = "TRITON_INTERPRET"  # Triton's own
_TRUE = ("1", "true", "on", "yes", "y")  # what Triton takes for true, in any case; nothing else is


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


def interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter, on tensors in main memory."""
    return os.environ.get(_INTERPRETER_VARIABLE, "").lower() in _TRUE


def use_interpreter() -> None:
    """Run Triton's kernels in its interpreter from here on.

    Raises:
        RunError: Triton has been imported without it, and reads the switch then only.
    """
    if not interpreted() and "triton" in sys.modules:
        raise RunError(f"Triton is loaded already; set {_INTERPRETER_VARIABLE}=1 before Python starts")
    os.environ[_INTERPRETER_VARIABLE] = "1"


def triton_problem(device: str = "cuda") -> str | None:
    """Why Triton's kernels cannot serve a kind of device, "cuda" or "cpu", or None when they can."""
    if device == "cpu" and not interpreted():
        return f"on a CPU they run in Triton's interpreter: set {_INTERPRETER_VARIABLE}=1"
    if device != "cpu" and interpreted():
        return f"{_INTERPRETER_VARIABLE}=1 is for tensors in main memory; unset it"
    try:
        triton = importlib.import_module("triton")
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    if tuple(map(int, triton.__version__.split(".")[:2])) < LEAST_TRITON:
        needed = ".".join(map(str, LEAST_TRITON))
        return f"Triton {triton.__version__} is older than {needed}, with which the kernels are tested; update PyTorch"
    return None


def choose(name: str | None = None, *, device: str = "cpu") -> Choice:
    """Decide on a backend without building it.

    Args:
        name: "native", "triton" or "reference"; None reads the environment variable STA_KERNELS_BACKEND, and without
            it takes the fastest that can serve.
        device: where the buffers are: "cpu", or "cuda" (CUDA and ROCm).

    Raises:
        InputError: the name is unknown.
        RunError: the backend that was asked for, or the only one for the device, cannot serve.
    """
    source, who, back = "asked for by the caller", "the caller", "ask for another"
    if name is None:
        name = os.environ.get(ENVIRONMENT_VARIABLE) or None
        source = who = f"{ENVIRONMENT_VARIABLE}={name}"
        back = "unset the variable"
    if name is not None and name not in BACKENDS:
        raise InputError(f"unknown backend {name!r} ({source}); known: {', '.join(BACKENDS)}")
    if device != "cpu":
        if name not in (None, "triton"):
            raise RunError(f"{who} asks for the {name} backend, which serves the CPU only, and tensors are on {device}")
        if (problem := triton_problem(device)) is not None:
            raise RunError(f"tensors are on {device}, where Triton's kernels serve, but {problem}")
        return Choice("triton", f"the tensors are on {device}" if name is None else source)
    if name is None:
        problem = native_problem()
        if problem is None:
            return Choice("native", "the native core was built and loads")
        return Choice("reference", f"no native core: {problem}")
    asks = f"{who} asks for the {name} backend, which cannot serve"
    if name == "triton" and not interpreted():
        raise RunError(
            f"{asks} tensors in main memory: move them to a GPU, set {_INTERPRETER_VARIABLE}=1 (an interpreter, slow), "
            f"or {back}"
        )
    problem = native_problem() if name == "native" else triton_problem("cpu") if name == "triton" else None
    if problem is not None:
        raise RunError(f"{asks}: {problem}")
    return Choice(name, source)


def get_backend(name: str | None = None, *, device: str = "cpu") -> Backend:
    """The backend for buffers on a device; the arguments and errors are those of :func:`choose`.

    Falling back from the native core to the NumPy reference warns once: same bits, many times slower.

    Args:
        name: see :func:`choose`.
        device: "cpu", or a GPU with or without its index, as ``str(tensor.device)`` gives it.
    """
    return _build(name, os.environ.get(ENVIRONMENT_VARIABLE) or None, device)


@functools.cache
def _build(name: str | None, environment: str | None, device: str) -> Backend:
    """``environment`` is what :func:`choose` finds there, and part of what is remembered."""
    choice = choose(name, device=device.split(":")[0])
    if choice.name == "triton":
        from sta_kernels.kernels.triton.backend import TritonBackend

        return TritonBackend(device)
    if choice.name == "native":
        from sta_kernels.kernels.native import NativeBackend

        return NativeBackend()
    from sta_kernels.kernels.numpy_backend import NumpyBackend

    if name is None and environment is None:
        warnings.warn(
            f"sta_kernels runs on its NumPy reference, with the same bits but many times slower ({choice.reason})",
            RuntimeWarning,
            stacklevel=3,
        )
    return NumpyBackend()
