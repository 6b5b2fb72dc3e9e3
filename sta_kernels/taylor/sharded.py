"""DTensor parameters (FSDP2, tensor parallelism): each process works on its own shard."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from sta_kernels.errors import InputError


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor; does not import what makes them."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, without a copy; a plain tensor is its own part."""
    if not is_sharded(tensor):
        return tensor.detach()
    placed: Any = tensor.detach()
    shard = placed.to_local()
    # A collective may still be writing it, and kernels read addresses.
    return shard.wait() if hasattr(shard, "wait") else shard


def whole(tensor: Tensor) -> Tensor:
    """All elements of a tensor, gathered from every process where it is sharded: a collective call then."""
    placed: Any = tensor.detach()
    return placed.full_tensor() if is_sharded(tensor) else placed


def is_first(tensor: Tensor) -> bool:
    """Whether this process is the first of those that hold a sharded tensor."""
    placed: Any = tensor
    return not any(placed.device_mesh.get_coordinate())


def reduced(name: str, param: Tensor, grad: Tensor) -> Tensor:
    """The gradient of one sample on this process's shard of its parameter.

    Where the processes hold parts of a sum, or another division, it is first brought to the parameter's placements:
    |g| of parts must not be added up. That is a collective call, which every process makes in the same order.

    Raises:
        InputError: one of the two is sharded and the other is not, or they lie on different meshes.
    """
    if is_sharded(param) != is_sharded(grad):
        raise InputError(
            f"the parameter {name} is a {type(param).__name__} and its gradient a {type(grad).__name__}; |g| can be "
            "added up on shards only where both are sharded alike"
        )
    if is_sharded(param):
        mine: Any = param
        theirs: Any = grad.detach()
        if theirs.device_mesh != mine.device_mesh:
            raise InputError(
                f"the gradient of {name} lies on another device mesh than the parameter: {theirs.device_mesh} and "
                f"{mine.device_mesh}"
            )
        if theirs.placements != mine.placements:
            grad = theirs.redistribute(placements=mine.placements)
    return local(grad)


def zeros(param: Tensor, dtype: torch.dtype, device: torch.device | None) -> Tensor:
    """Contiguous zeros of a parameter's shape, sharded as it is."""
    if is_sharded(param):
        return torch.zeros_like(param.detach(), dtype=dtype, memory_format=torch.contiguous_format)
    return torch.zeros(param.shape, dtype=dtype, device=device or param.device)


def problem(param: Tensor, device: torch.device | None) -> str | None:
    """Why a DTensor parameter cannot be watched, or None."""
    placed: Any = param
    if any(placement.is_partial() for placement in placed.placements):
        return "holds parts of a sum, not its elements; redistribute it first"
    if device is not None and device.type != local(param).device.type:
        return f"is sharded, and its importance stays where its shards are, not on {device}; pass no device"
    return None
