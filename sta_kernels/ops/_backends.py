"""What serves an op's tensors: a backend on buffers in main memory, or launches on the device that holds them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sta_kernels.kernels import get_backend
from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.reference.environment import ieee_arithmetic


def host_backend(device: torch.device) -> Backend | None:
    """The backend for tensors in main memory; None where kernels are launched on the device (:func:`launching`).

    Raises:
        RunError: nothing serves the device, or not what was asked for.
    """
    backend = get_backend(device=str(device))
    return None if backend.name == "triton" else backend


@contextmanager
def launching(device: torch.device) -> Iterator[Any]:
    """:mod:`sta_kernels.ops._launch`, with the device made the current one."""
    from sta_kernels.ops import _launch  # imports Triton, which not every platform has

    backend: Any = get_backend(device=str(device))
    # The interpreter computes in this thread, whatever rounding and flushing its caller has set.
    with backend.launching(), ieee_arithmetic():
        yield _launch
