"""PyTorch ``.pt``/``.bin``/``.pth`` files: the only module of this package that imports torch."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sta_kernels.checkpoint.entry import TensorEntry, byte_size
from sta_kernels.checkpoint.header import LENGTH_BYTES, check_name, check_pointer
from sta_kernels.checkpoint.names import state_dict_of
from sta_kernels.checkpoint.source import Identity
from sta_kernels.errors import InputError, RunError

if TYPE_CHECKING:
    import torch

_ZIP_MAGIC = b"PK\x03\x04"
_CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
}
"""Safetensors code of each torch dtype that has one."""


class TorchSource:
    """A zip checkpoint of ``torch.save``, unpickled by the restricted unpickler and mapped, never loaded whole.

    Tensors that are the same view of the same storage are one entry and its aliases. Views that are not contiguous are
    gathered while they are read, so nothing of a tensor's size is ever allocated.

    Args:
        file: to open.

    Raises:
        InputError: no zip checkpoint, objects besides plain tensors and containers, or tensors without plain bytes.
        RunError: the file cannot be read or mapped.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.identity = Identity.of(file)
        self.entries: list[TensorEntry] = []
        self.metadata: dict[str, str] = {}
        self.aliases: dict[str, str] = {}
        self._tensors: dict[str, torch.Tensor] = {}
        self.left_out: list[str] = []
        views: dict[Any, str] = {}
        for name, tensor in state_dict_of(_load(file), _is_tensor, str(file)).items():
            if not _is_tensor(tensor):
                self.left_out.append(name)
                continue
            entry = _describe(name, tensor, file)
            first = views.setdefault(_view_key(tensor), name)
            if first == name:
                self.entries.append(entry)
                self._tensors[name] = tensor.detach()
            else:
                self.aliases[name] = first
        self.identity.check(file)

    def read_into(self, entry: TensorEntry, start: int, view: memoryview) -> None:
        """Copy bytes ``start`` to ``start + len(view)`` of the tensor's C-order bytes.

        Raises:
            ValueError: the range cuts an element of a tensor that is not contiguous.
            RunError: the file changed since it was opened (a read past a mapped file's new end would kill the process).
        """
        import torch

        self.identity.check(self.file)
        tensor = self._tensors[entry.name]
        out = torch.frombuffer(view, dtype=torch.uint8)
        if tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg():
            flat = tensor.as_strided((tensor.numel(),), (1,))  # a dimension of size 1 may have any stride
            out.copy_(flat.view(torch.uint8)[start : start + len(view)])
            return
        size = tensor.element_size()
        if start % size or len(view) % size:
            raise ValueError(f"{entry.name}: bytes [{start}, {start + len(view)}) cut an element of {size} bytes")
        elements = torch.frombuffer(view, dtype=tensor.dtype)
        _gather(tensor, start // size, elements)

    def close(self) -> None:
        """Drop the mapping."""
        self._tensors = {}


def _load(file: Path) -> Any:
    """What the file holds, its storages mapped."""
    try:
        with open(file, "rb") as stream:
            prefix = stream.read(LENGTH_BYTES)
    except OSError as error:
        raise RunError(f"{file}: cannot be opened: {error.strerror or error}") from error
    check_pointer(prefix, file.stat().st_size, file)
    if not prefix.startswith(_ZIP_MAGIC):
        raise InputError(
            f"{file}: not a zip checkpoint of torch.save, so it cannot be mapped; an older PyTorch file is converted"
            " once with torch.save(torch.load(path, map_location='cpu', weights_only=True), new_path)"
        )
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{file}: holds more than tensors, and no code of a checkpoint is run; save a state dict of tensors, as "
            "with torch.save(model.state_dict(), path)"
        ) from None
    except MemoryError:
        raise RunError(f"{file}: cannot be mapped; the address space is limited") from None
    except OSError as error:
        raise RunError(f"{file}: {error.strerror or error}") from error
    except Exception as error:  # a damaged archive or pickle surfaces as nearly any type, by the byte that is wrong
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{file}: not a readable PyTorch checkpoint: {reason}") from None


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _describe(name: str, tensor: torch.Tensor, file: Path) -> TensorEntry:
    """Entry of a tensor whose bytes can be read."""
    import torch

    check_name(name, file)
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and not (tensor.is_quantized or tensor.is_nested)
    if not plain or tensor.layout != torch.strided or tensor.device.type != "cpu":
        kind = f"{type(tensor).__name__}, {tensor.dtype}, {tensor.layout}, on {tensor.device}"
        raise InputError(f"{file}: tensor {name!r} is {kind}; only plain dense tensors have bytes to read")
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _CODES:
        raise InputError(f"{file}: tensor {name!r} is {dtype}, which safetensors cannot hold")
    shape = tuple(tensor.shape)
    return TensorEntry(name, _CODES[dtype], shape, byte_size(_CODES[dtype], shape), file)


def _view_key(tensor: torch.Tensor) -> Any:
    """Equal for tied tensors: the same elements of the same storage, seen in the same way."""
    if tensor.numel() == 0:
        return id(tensor)
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.is_conj(), tensor.is_neg()


def _gather(tensor: torch.Tensor, start: int, out: torch.Tensor) -> None:
    """Copy ``len(out)`` elements of a strided tensor, in C order from element ``start`` on, without a temporary.

    Rows of the first dimension that lie wholly inside the range go in one copy; a row that it cuts is descended into.
    """
    if out.numel() == 0:
        return
    if tensor.dim() == 0:
        out.copy_(tensor.reshape(1))
        return
    row = math.prod(tensor.shape[1:])
    first, inside = divmod(start, row)
    done = 0
    if inside:
        done = min(row - inside, out.numel())
        _gather(tensor[first], inside, out[:done])
        first += 1
    whole = (out.numel() - done) // row
    if whole:
        target = out[done : done + whole * row]
        target.view(whole, *tensor.shape[1:]).copy_(tensor[first : first + whole])
        done += whole * row
    if done < out.numel():
        _gather(tensor[first + whole], 0, out[done:])
