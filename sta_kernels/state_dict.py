"""State dicts as callers have them: wrapped, prefixed, with tied entries, and told apart by a label in errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sta_kernels.checkpoint.names import state_dict_of, wrapping_prefix
from sta_kernels.errors import InputError

Tensors = Mapping[str, torch.Tensor]
SERVED = ("cpu", "cuda")
"""Kinds of device that some backend serves; CUDA and ROCm are one to torch."""
_CODES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float64: "F64",
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.uint64: "U64",
    torch.int64: "I64",
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Dtype, by its safetensors name or else by torch's, and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]


class StateDict:
    """Tensors by bare name.

    Attributes:
        label: what errors call it.
        tensors: in the caller's order, without the prefix.
        prefix: ``module.`` and the like, which wrapper modules put before every name, or nothing.
    """

    def __init__(self, label: str, given: Any) -> None:
        """Unwrap as files are unwrapped (:mod:`sta_kernels.checkpoint.names`), and check what is inside.

        Raises:
            InputError: not a mapping of names to dense tensors on a device that is served.
        """
        given = state_dict_of(given, _is_tensor, label)
        for name, tensor in given.items():
            _check(label, name, tensor)
        self.label = label
        self.prefix = wrapping_prefix(given)
        self.tensors: dict[str, torch.Tensor] = {
            name[len(self.prefix) :]: tensor.detach().resolve_neg() for name, tensor in given.items()
        }

    def entries(self) -> dict[str, TensorInfo]:
        """What is known of each tensor without reading it."""
        return {
            name: TensorInfo(_CODES.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape))
            for name, tensor in self.tensors.items()
        }

    def aliases(self) -> dict[str, str]:
        """Names of tensors that are the same memory as an earlier one, and that one's name."""
        return {name: group[0] for group in self._tied() for name in group[1:]}

    def without_foreign_aliases(self, names: Mapping[str, Any]) -> dict[str, TensorInfo]:
        """Entries, but for those outside ``names`` that are tied to one inside: a tied head that one file lists."""
        foreign = {
            name for group in self._tied() if not names.keys().isdisjoint(group) for name in group if name not in names
        }
        return {name: entry for name, entry in self.entries().items() if name not in foreign}

    def _tied(self) -> list[list[str]]:
        groups: dict[Any, list[str]] = {}
        for name, tensor in self.tensors.items():
            if tensor.numel():
                key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
                groups.setdefault(key, []).append(name)
        return [group for group in groups.values() if len(group) > 1]


def position(shape: tuple[int, ...], flat_index: int) -> list[int]:
    """Index per dimension of an element that is counted in C order."""
    index = []
    for size in reversed(shape):
        flat_index, step = divmod(flat_index, size)
        index.append(step)
    return index[::-1]


def common_device(states: Sequence[StateDict]) -> torch.device:
    """The one device of all tensors; the CPU where there are none.

    Raises:
        InputError: there are several; names the first entry that is elsewhere than the first of all.
    """
    device = None
    for state in states:
        for name, tensor in state.tensors.items():
            device = device or tensor.device
            if tensor.device != device:
                raise InputError(
                    f"{state.label}: {name!r} is on {tensor.device}, but {states[0].label} is on {device}; move one of "
                    "them with .to()"
                )
    return device or torch.device("cpu")


def equal(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> list[bool]:
    """Whether the tensors of each pair are the same memory, or equal in shape and values; waits for a GPU once."""
    answers: list[bool | torch.Tensor] = []
    for one, other in pairs:
        if one.shape != other.shape or (one.data_ptr() == other.data_ptr() and one.stride() == other.stride()):
            answers.append(one.shape == other.shape)
        else:
            wider = torch.promote_types(one.dtype, other.dtype)
            answers.append((one.to(wider) == other.to(wider)).all())
    asked = [answer for answer in answers if isinstance(answer, torch.Tensor)]
    told = iter(torch.stack(asked).tolist() if asked else ())
    return [next(told) if isinstance(answer, torch.Tensor) else answer for answer in answers]


def _check(label: str, name: str, tensor: Any) -> None:
    if not _is_tensor(tensor):
        raise InputError(f"{label}: expected tensors by name, but {name!r} is a {type(tensor).__name__}")
    if tensor.device.type not in SERVED:
        raise InputError(f"{label}: {name!r} is on {tensor.device}, which no kernel reads; move it with .cpu()")
    if tensor.layout != torch.strided:
        raise InputError(f"{label}: {name!r} has layout {tensor.layout}; convert it with .to_dense()")


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)
