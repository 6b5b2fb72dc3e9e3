"""Whole modules in a pickle, such as the task-arithmetic papers' ``ImageEncoder`` files: tensors out, no code run.

torch's own restricted unpickler reads the file. It builds tensors and plain containers, and refuses any other class or
function, but for those it is given something in place of. Here that is, for each name of a known origin, an empty class
of this module's that keeps what the pickle says of its object. Nothing that the pickle names is imported or called:
neither ``__init__`` nor ``__setstate__`` nor what a ``__reduce__`` asked for.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sta_kernels.errors import InputError

ROOTS = (
    "modeling",
    "open_clip",
    "src.modeling",
    "src.models",
    "torch.nn.modules",
    "torch.nn.parallel",
    "torchvision.transforms",
)
"""Modules whose classes and functions may be named: those of encoders, layers and preprocessing."""
ENUMERATION = "PIL.Image.Resampling"


class Inert:
    """Stands for an object of a class that is not loaded: holds its attributes, does nothing."""

    state: dict[str, Any]

    def __new__(cls, *arguments: Any, **keywords: Any) -> Inert:
        """Without what the pickle would have its class called with."""
        self = super().__new__(cls)
        self.state = {}
        return self

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}


def foreign_names(file: Path) -> list[str]:
    """Classes and functions, by their full names, that a PyTorch file names beside tensors and containers.

    Raises:
        InputError: no zip checkpoint of ``torch.save``, or one of TorchScript, which is code.
    """
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    except Exception as error:  # a damaged archive or pickle surfaces as nearly any type
        if "torchscript" in str(error).lower():
            raise InputError(
                f"{file}: a TorchScript archive, which is code; convert it where you trust it: "
                "torch.save(torch.jit.load(path).state_dict(), new_path)"
            ) from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{file}: not a readable PyTorch checkpoint: {reason}") from None


def read_pickled(file: Path) -> tuple[dict[str, Tensor], frozenset[str]]:
    """Parameters and buffers of the module that a file holds, by the names its ``state_dict()`` would give them.

    Args:
        file: what ``torch.save(module, file)`` wrote.

    Returns:
        The tensors, detached, on the CPU; and the bare names of the classes that the module's parts have.

    Raises:
        InputError: the pickle names something of another origin (it is listed), holds no module, or is damaged.
    """
    names = foreign_names(file)
    strange = [name for name in names if not _is_known(name)]
    if strange:
        raise InputError(
            f"{file}: names {', '.join(strange)}, which is nothing that an image encoder is made of, and no code of a "
            "checkpoint is run; where you trust the file, load it and save its state dict: "
            "torch.save(model.state_dict(), path)"
        )
    stand_ins: list[Any] = [(type(name.rpartition(".")[2], (Inert,), {}), name) for name in names]
    try:
        with torch.serialization.safe_globals(stand_ins):
            module = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, TypeError, ValueError, KeyError, AttributeError, EOFError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{file}: not a readable PyTorch checkpoint: {reason}") from None
    if not isinstance(module, Inert):
        raise InputError(f"{file}: holds a {type(module).__name__} with {', '.join(names)} in it, and no module")
    tensors = {name: tensor.detach() for name, tensor in _tensors(module, "", 0)}
    if not tensors:
        raise InputError(f"{file}: the {type(module).__name__} in it has no parameters")
    return tensors, frozenset(name.rpartition(".")[2] for name in names)


def _is_known(name: str) -> bool:
    return name == ENUMERATION or any(name.startswith(root + ".") for root in ROOTS)


_DEEPEST = 100  # a pickle can hold a module that holds itself


def _tensors(module: Inert, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    """As ``torch.nn.Module.state_dict`` walks, without the buffers that it leaves out."""
    if depth > _DEEPEST:
        raise InputError(f"the modules of the checkpoint are nested deeper than {_DEEPEST}, at {prefix[:80]}")
    transient = module.state.get("_non_persistent_buffers_set") or ()
    for kind in ("_parameters", "_buffers"):
        for name, value in (module.state.get(kind) or {}).items():
            if isinstance(value, Tensor) and name not in transient:
                yield prefix + name, value
    for name, child in (module.state.get("_modules") or {}).items():
        if isinstance(child, Inert):
            yield from _tensors(child, f"{prefix}{name}.", depth + 1)
