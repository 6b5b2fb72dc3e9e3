"""Argument checks that the real and the fake kernels share, so that eager and compiled calls raise the same errors.

Every message names the tensor. Nothing here reads an element or an address, except :func:`no_overlap`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sta_kernels import methods
from sta_kernels.kernels.backend import TIES
from sta_kernels.kernels.buffers import MEASURES, Buffer
from sta_kernels.methods.base import ModelData

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

_FLOAT32_MAX = float(np.finfo(np.float32).max)


def tensors(name: str, values: Any) -> list[Tensor]:
    """The argument as a list, where it holds tensors.

    Raises:
        TypeError: it is a single tensor (which would silently be split into rows), or an entry is no tensor.
    """
    if isinstance(values, Tensor) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: {type(values).__name__} given; a list of tensors is needed")
    values = list(values)
    for index, value in enumerate(values):
        if not isinstance(value, Tensor):
            tensor(f"{name}[{index}]", value)
    return values


def tensor(name: str, value: Any) -> Tensor:
    """The argument itself, where it is a tensor.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: {type(value).__name__} given; a tensor is needed")
    return value


def per_model(weight: float | Sequence[float], n_models: int) -> list[float]:
    """One weight per model; a single number serves all.

    Raises:
        ValueError: something else than numbers.
    """
    weights = list(weight) if isinstance(weight, Sequence) else [weight] * n_models
    for each in weights:
        if not isinstance(each, (int, float, np.integer, np.floating)):
            raise ValueError(f"weight: expected a number, or a list of them, got {each!r}")
    return weights


def floating(name: str, tensor: Tensor) -> None:
    """Refuse what no kernel reads.

    Raises:
        TypeError: a dtype other than :data:`FLOATING`, or a sparse layout.
    """
    if tensor.dtype not in FLOATING:
        raise TypeError(f"{name}: dtype {tensor.dtype}; float32, bfloat16, float16 or float64 is needed")
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name}: layout {tensor.layout}; a dense tensor is needed")


def alike(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Require a floating tensor of the shape and device of another; dtypes may differ.

    Raises:
        TypeError: see :func:`floating`.
        ValueError: another shape or device.
    """
    floating(name, tensor)
    if tensor.shape != other.shape:
        raise ValueError(f"{name}: shape {list(tensor.shape)}, {other_name} has {list(other.shape)}")
    same_device(name, tensor, other_name, other)


def all_alike(name: str, tensors: Sequence[Tensor], other_name: str, other: Tensor) -> None:
    """:func:`alike` for each entry of a list."""
    shape, device, dense = other.shape, other.device, torch.strided
    for index, each in enumerate(tensors):
        if each.dtype not in FLOATING or each.shape != shape or each.device != device or each.layout is not dense:
            alike(f"{name}[{index}]", each, other_name, other)


def same_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Require two tensors on one device.

    Raises:
        ValueError: they are not.
    """
    if tensor.device != other.device:
        raise ValueError(f"{name}: on {tensor.device}, {other_name} is on {other.device}")


def at_least_one(name: str, tensors: Sequence[Tensor]) -> None:
    """Refuse an empty list.

    Raises:
        ValueError: it is empty.
    """
    if not tensors:
        raise ValueError(f"{name}: empty; at least one tensor is needed")


def one_each(name: str, values: Sequence[Any], n_models: int) -> None:
    """Require one entry per model.

    Raises:
        ValueError: another number of entries.
    """
    if len(values) != n_models:
        raise ValueError(f"{name}: {len(values)} given, finetuned has {n_models}; one each is needed")


def decimal(name: str, value: Any) -> Any:
    """A number as it is printed: NumPy's float32 0.7 is 0.7, as in :mod:`sta_kernels.methods.parameters`.

    Raises:
        TypeError: a tensor, whose value is no decimal that anyone wrote.
    """
    if isinstance(value, Tensor):
        raise TypeError(f"{name}: a tensor given; a number is needed")
    if not torch.compiler.is_compiling() and isinstance(value, np.floating):
        return float(str(value))
    return value


def quantile(p: float) -> None:
    """Require a share.

    Raises:
        ValueError: p outside [0, 1], or NaN.
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"p: {p}; a number in [0, 1] is needed")


def finite(name: str, value: float) -> None:
    """Require a number that float32 can hold.

    Raises:
        ValueError: NaN, an infinity, or beyond the range.
    """
    # A comparison, not math.isfinite: that would make torch.compile guard on the exact value and recompile for each.
    if not -_FLOAT32_MAX <= value <= _FLOAT32_MAX:
        raise ValueError(f"{name}: {value}; a finite float32 number is needed")


def weights(values: Sequence[float], n_models: int) -> None:
    """Require one finite weight per model.

    Raises:
        ValueError: another number of them, or one that is not finite.
    """
    one_each("weight", values, n_models)
    for index, value in enumerate(values):
        if not -_FLOAT32_MAX <= value <= _FLOAT32_MAX:
            finite(f"weight[{index}]", value)


def one_of(name: str, value: str, known: Sequence[str]) -> None:
    """Require a known word.

    Raises:
        ValueError: it is not among ``known``.
    """
    if value not in known:
        raise ValueError(f"{name}: {value!r}; one of {', '.join(known)} is needed")


def counts(name: str, tensor: Tensor, sizes: Sequence[int], other_name: str, other: Tensor) -> None:
    """Require an int64 vector of one of the sizes; an empty one asks for no counts.

    Raises:
        TypeError: another dtype.
        ValueError: another shape or device.
    """
    if tensor.dtype != torch.int64:
        raise TypeError(f"{name}: dtype {tensor.dtype}; int64 is needed")
    if tensor.dim() != 1 or tensor.shape[0] not in (0, *sizes):
        needed = " or ".join(f"[{size}]" for size in sizes)
        raise ValueError(f"{name}: shape {list(tensor.shape)}; {needed} is needed")
    same_device(name, tensor, other_name, other)


def merge_operands(
    base: Tensor,
    finetuned: Sequence[Tensor],
    importances: Sequence[Tensor],
    normaliser: Tensor | None,
    p: float,
    keep: int | None,
    measure: str,
    ties: str,
    weight: Sequence[float],
    lambda_: float,
) -> None:
    """Everything that ``sta_merge`` requires of its inputs.

    Raises:
        TypeError: a dtype that no kernel reads.
        ValueError: shapes, devices, lengths or values that do not fit.
    """
    floating("base", base)
    at_least_one("finetuned", finetuned)
    n_models = len(finetuned)
    all_alike("finetuned", finetuned, "base", base)
    one_of("measure", measure, MEASURES)
    one_of("ties", ties, TIES)
    if measure == "amp":
        if importances:
            raise ValueError("importances: given, but measure 'amp' forms θ² itself and reads none; pass None")
    else:
        one_each("importances", importances, n_models)
        all_alike("importances", importances, "base", base)
    quantile(p)
    if keep is not None and not 0 <= keep <= n_models:
        raise ValueError(f"keep: {keep}; 0 to {n_models} (the number of fine-tuned models) is needed")
    weights(weight, n_models)
    finite("lambda_", lambda_)
    if normaliser is not None:
        if normaliser.dtype != torch.float32:
            raise TypeError(f"normaliser: dtype {normaliser.dtype}; float32 is needed")
        if tuple(normaliser.shape) != (n_models, 2):
            raise ValueError(
                f"normaliser: shape {list(normaliser.shape)}; [{n_models}, 2] (shift, divisor per model) is needed"
            )
        same_device("normaliser", normaliser, "base", base)


def forget_operands(
    target: Tensor,
    base: Tensor,
    finetuned: Tensor,
    importance: Tensor | None,
    p: float,
    measure: str,
    weight: float,
    lambda_: float,
) -> None:
    """Everything that ``sta_forget`` requires of its inputs.

    Raises:
        TypeError: a dtype that no kernel reads.
        ValueError: shapes, devices or values that do not fit.
    """
    floating("target", target)
    alike("base", base, "target", target)
    alike("finetuned", finetuned, "target", target)
    one_of("measure", measure, MEASURES)
    if measure == "amp":
        if importance is not None:
            raise ValueError("importance: given, but measure 'amp' forms θ² itself and reads none; pass None")
    elif importance is None:
        raise ValueError(f"importance: None given; measure {measure!r} reads one")
    else:
        alike("importance", importance, "target", target)
    quantile(p)
    finite("weight", weight)
    finite("lambda_", lambda_)


def method_operands(
    base: Tensor | None, finetuned: Sequence[Tensor], importances: Sequence[Tensor], method: str, parameters: str
) -> Tensor:
    """Check what a method is given, and return the tensor whose dtype the result has.

    Raises:
        TypeError: see :func:`floating`.
        ValueError: an operand that is missing, not taken, or of another shape or device; parameters that do not fit.
    """
    at_least_one("finetuned", finetuned)
    chosen = methods.get(method)
    roles = chosen.roles(methods.resolve(chosen, len(finetuned), **json.loads(parameters)))
    if roles.base and base is None:
        raise ValueError(f"{method}: base: None, but it merges differences from the base")
    name, pattern = ("finetuned[0]", finetuned[0]) if base is None else ("base", base)
    floating(name, pattern)
    all_alike("finetuned", finetuned, name, pattern)
    if not roles.importance and importances:
        raise ValueError(f"{method}: importances: {len(importances)} given, it reads none with these parameters")
    if roles.importance:
        one_each("importances", importances, len(finetuned))
        if chosen.data.elementwise:
            all_alike("importances", importances, name, pattern)
        else:
            _all_shaped("importances", importances, chosen.data, name, pattern)
    return pattern


def _all_shaped(name: str, given: Sequence[Tensor], data: ModelData, pattern_name: str, pattern: Tensor) -> None:
    """Require data of the shape that goes by another tensor's, on its device."""
    wanted = data.shape(tuple(pattern.shape))
    expected = f"no {data.name}" if wanted is None else f"a {data.name} of shape {list(wanted)}"
    for index, each in enumerate(given):
        floating(f"{name}[{index}]", each)
        same_device(f"{name}[{index}]", each, pattern_name, pattern)
        if tuple(each.shape) != wanted:
            raise ValueError(
                f"{name}[{index}]: shape {list(each.shape)}, but {pattern_name} of shape {list(pattern.shape)} has "
                f"{expected}"
            )


def no_overlap(out: Tensor, named: Sequence[tuple[str, Tensor]], *, in_place: bool, name: str = "out") -> None:
    """Refuse an output that kernels could not write in any order.

    Args:
        out: the tensor to be written.
        named: the operands that are read, with their names.
        in_place: an operand may be ``out`` itself: same address, dtype and layout.
        name: what the caller knows ``out`` as.

    Raises:
        ValueError: ``out`` has elements that share memory, or shares memory with an operand in another way.
    """
    if not out.is_contiguous() and _overlaps_itself(out):
        raise ValueError(f"{name}: its own elements share memory (an expanded view?); pass a clone")
    first, last = _extent(out)
    for operand_name, operand in named:
        start, stop = _extent(operand)
        if start >= last or first >= stop or (in_place and _is_same(out, operand)):
            continue
        if _shares_memory(out, operand):
            how = " in part or in another layout" if in_place else ""
            raise ValueError(f"{name}: shares memory with {operand_name}{how}; pass a tensor of its own")


def _extent(tensor: Tensor) -> tuple[int, int]:
    """First byte, and one past the last, that the tensor's elements lie in (strides are never negative)."""
    address = tensor.data_ptr()
    if tensor.numel() == 0:
        return address, address
    if tensor.is_contiguous():
        return address, address + tensor.numel() * tensor.itemsize
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return address, address + (last + 1) * tensor.itemsize


def _is_same(a: Tensor, b: Tensor) -> bool:
    if a.data_ptr() != b.data_ptr() or a.dtype != b.dtype:
        return False
    steps = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(mine == theirs for size, mine, theirs in steps if size > 1)


def _shares_memory(a: Tensor, b: Tensor) -> bool:
    """Whether one byte belongs to both: views of one buffer may interleave without sharing any."""
    mine, theirs = Buffer.from_torch(a).numpy(), Buffer.from_torch(b).numpy()
    return np.shares_memory(mine, theirs)


def _overlaps_itself(tensor: Tensor) -> bool:
    """Whether two indices may name one element: some step is within what the smaller steps span."""
    span = 0
    for step, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if step <= span:
                return True
            span += step * (size - 1)
    return False
