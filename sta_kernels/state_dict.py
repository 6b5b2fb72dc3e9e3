"""State dicts as callers have them: wrapped, prefixed, with tied entries, and told apart by a label in errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sta_kernels.checkpoint.names import state_dict_of, wrapping_prefix
from sta_kernels.errors import InputError

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
            InputError: not a mapping of names to dense tensors in this computer's memory.
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


def _check(label: str, name: str, tensor: Any) -> None:
    if not _is_tensor(tensor):
        raise InputError(f"{label}: expected tensors by name, but {name!r} is a {type(tensor).__name__}")
    if tensor.device.type != "cpu":
        raise InputError(
            f"{label}: {name!r} is on {tensor.device}, and there is no GPU backend in this version; move it with .cpu()"
        )
    if tensor.layout != torch.strided:
        raise InputError(f"{label}: {name!r} has layout {tensor.layout}; convert it with .to_dense()")


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)
