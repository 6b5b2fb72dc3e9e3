"""On which device the kernels of a merge from disk to disk run, and why there."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sta_kernels import kernels
from sta_kernels.engine.memory import Arena, Workspace
from sta_kernels.errors import InputError, RunError
from sta_kernels.kernels.backend import Backend

if TYPE_CHECKING:
    import torch

_DEVICES = re.compile(r"auto|cpu|interpret|cuda(:\d+)?")
_FILES = "files are read into main memory, and the CPU merges them there"


@dataclass(frozen=True)
class Placement:
    """Where a merge runs. It changes no bit of the result, so it is no part of a plan's identity.

    Attributes:
        device: ``cpu``; ``cuda:0`` and the like; ``interpret``, Triton's kernels in its interpreter on the CPU.
        backend: name of the kernels.
        reason: why there.
        free: bytes free on a device with memory of its own.
    """

    device: str
    backend: str
    reason: str
    free: int | None = None

    @property
    def kind(self) -> str:
        """What the sizes of buffers go by."""
        return self.backend if self.device == "cpu" else self.device.split(":")[0]

    def to_json(self) -> dict[str, str]:
        """What plan and manifest say."""
        return {"device": self.device, "backend": self.backend, "reason": self.reason}


@dataclass(frozen=True)
class Kernels:
    """A backend, and the memory that its callers put operands in."""

    backend: Backend
    workspace: Callable[[int], Workspace] | None = None

    def arena(self, size: int) -> Arena:
        """Memory for the calling thread."""
        return Arena(size, None if self.workspace is None else self.workspace(size))


def place(device: str | torch.device | None) -> Placement:
    """Decide where a merge runs; looks at a GPU only where one is asked for.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``interpret``, or a torch.device. ``auto``, or None, goes by
            where the bytes are, and those of files pass through main memory: the CPU, unless STA_KERNELS_BACKEND=triton
            asks for Triton's kernels.

    Raises:
        InputError: no such device, or not in this process, or not with the backend that the environment asks for.
        RunError: the backend that the environment asks for cannot serve the device.
    """
    device = _name(device)
    forced = os.environ.get(kernels.ENVIRONMENT_VARIABLE) or None
    if forced is not None and forced not in kernels.BACKENDS:
        kernels.choose()  # raises
    if device.startswith("cuda"):
        return _gpu(device, "asked for by the caller", forced)
    if device == "interpret":
        return _interpreter("asked for by the caller", forced)
    if device == "auto" and forced == "triton" and not kernels.interpreted():
        return _gpu("cuda", f"auto: {kernels.ENVIRONMENT_VARIABLE}=triton", forced, "auto")
    if device == "cpu" and forced == "triton":
        raise InputError(
            f"device: cpu contradicts {kernels.ENVIRONMENT_VARIABLE}=triton; unset the variable, or ask for interpret"
        )
    choice = kernels.choose()
    if choice.name == "triton":
        return _interpreter(choice.reason, forced)
    reason = f"auto: {_FILES}" if device == "auto" else "asked for by the caller"
    return Placement("cpu", choice.name, f"{reason}; {choice.reason}")


def _name(device: object) -> str:
    if device is None:
        return "auto"
    if "torch" in sys.modules and isinstance(device, sys.modules["torch"].device):
        device = str(device)
    if not isinstance(device, str):
        raise InputError(f"device: expected a name, a torch.device or None, got {type(device).__name__}")
    if _DEVICES.fullmatch(device) is None:
        raise InputError(f"unknown device {device!r}; known: auto, cpu, cuda, cuda:N, interpret")
    return device


def _interpreter(reason: str, forced: str | None) -> Placement:
    _check_forced("interpret", forced)
    try:
        kernels.use_interpreter()
    except RunError as error:
        raise InputError(f"device: interpret cannot serve: {error}") from None
    problem = kernels.triton_problem("cpu")
    if problem is not None:
        raise InputError(f"device: interpret cannot serve: {problem}")
    return Placement(
        "interpret", "triton", f"{reason}; kernels run in Triton's interpreter, for proof and not for speed"
    )


def _gpu(device: str, reason: str, forced: str | None, asked: str = "") -> Placement:
    _check_forced(device, forced)
    problem = gpu_problem()
    if problem is not None and asked == "auto":
        raise InputError(
            f"device: auto is cuda where {kernels.ENVIRONMENT_VARIABLE}=triton, and cannot serve: {problem}; unset the "
            "variable"
        )
    if problem is not None:
        advice = "leave out --cuda (or --device): the CPU gives the same bits"
        raise InputError(f"device: {device} cannot serve: {problem}; {advice}")
    import torch

    count = torch.cuda.device_count()
    index = torch.device(device).index
    index = torch.cuda.current_device() if index is None else index
    if index >= count:
        raise InputError(
            f"device: {device} is not there; this machine has {', '.join(f'cuda:{i}' for i in range(count))}"
        )
    free, _ = torch.cuda.mem_get_info(index)
    return Placement(f"cuda:{index}", "triton", f"{reason}; {torch.cuda.get_device_name(index)}", free)


def gpu_problem() -> str | None:
    """Why no GPU can serve this process, or None when one can; imports Triton and torch."""
    problem = kernels.triton_problem("cuda")
    if problem is not None:
        return problem
    import torch

    if torch.cuda.is_available():
        return None
    if torch.version.cuda or torch.version.hip:
        return f"PyTorch {torch.__version__} finds no GPU, or no driver, on this machine"
    return f"PyTorch {torch.__version__} was built without support for GPUs"


def _check_forced(device: str, forced: str | None) -> None:
    if forced not in (None, "triton"):
        raise InputError(
            f"device: {device} needs Triton's kernels, but {kernels.ENVIRONMENT_VARIABLE}={forced} asks for others"
        )


def open_kernels(placement: Placement) -> Kernels:
    """The backend of a placement; only Triton's imports torch."""
    if placement.device == "cpu":
        return Kernels(kernels.get_backend())
    from sta_kernels.engine.staging import StagedBackend

    device = "cpu" if placement.device == "interpret" else placement.device
    staged = StagedBackend(kernels.get_backend("triton", device=device), device)
    return Kernels(staged, staged.workspace)
