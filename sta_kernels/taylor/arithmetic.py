"""The two steps of eq. 12 on torch tensors: accumulate |g| per sample, then multiply by |θ| once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sta_kernels.kernels import get_backend, triton_problem
from sta_kernels.kernels.backend import LEAF, Backend
from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.kernels.reference.environment import ieee_arithmetic
from sta_kernels.methods.statistics import Summary
from sta_kernels.taylor.sharded import is_sharded, local, whole


def dense(grad: Tensor) -> Tensor:
    """A gradient of any layout as a dense one; repeated rows of a sparse one are summed here, before the abs."""
    return grad.to_dense() if grad.layout is not torch.strided else grad  # nn.Embedding(sparse=True)


def accumulate(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Add one sample's |g| of several parameters in place: ``total = RN(total + |g|)`` (the sum of eq. 12).

    Where no kernel reaches the memory, plain torch operations do the same: one exact step and one rounded addition,
    hence the same bits.

    Args:
        pairs: (total, grad) per parameter. total: float32 or bfloat16, contiguous; where it lies decides where the
            addition runs. grad: of the same shape; dense, any floating dtype, strides or device.
    """
    with ExitStack() as groups:
        entered: dict[torch.device, Backend] = {}
        for total, grad in pairs:
            grad = grad.detach().to(total.device)
            if not kernels_reach(total):
                # float32 before the sum: in float64 or bfloat16 it would be rounded at other places.
                total.copy_(total.to(torch.float32) + grad.to(torch.float32).abs())
                continue
            backend = entered.get(total.device)
            if backend is None:
                backend = entered[total.device] = get_backend(device=str(total.device))
                groups.enter_context(backend.grouped())
            backend.taylor_accumulate(
                Buffer.from_torch(total), Buffer.from_torch(grad), threads=torch.get_num_threads()
            )


@ieee_arithmetic()
def finish(total: Tensor, param: Tensor, measure: str) -> Summary:
    """Turn the sum of |g| into the importance, in place, and take its range and mean on the way.

    ``lp``: |θ|·S (eq. 12); ``lp_amp``: (|θ|·S)·θ² (eq. 22); ``amp``: θ², whatever ``total`` held (eq. 21). A tensor
    that no kernel reaches visits this computer's memory, one at a time, once per run. The statistics of a sharded one
    are those of the whole, which is gathered for them, again one at a time.

    Args:
        total: S, float32 or bfloat16, contiguous; receives the importance, rounded once to its dtype.
        param: θ, of the same shape, sharded alike; any floating dtype or device.
        measure: "lp", "amp" or "lp_amp".

    Returns:
        Minimum, maximum and mean of what was written. The mean is a tier-B sum in float64 over the number of
        elements, rounded to float32. An empty tensor has the range (inf, −inf) and the mean 0.
    """
    summary = _finish(local(total), local(param), measure)
    return _summarise(whole(total)) if is_sharded(total) else summary


def _finish(total: Tensor, param: Tensor, measure: str) -> Summary:
    reached = total if kernels_reach(total) else total.cpu()
    minmax, leaves = _nothing(reached)
    out = Buffer.from_torch(reached)
    backend = get_backend(device=str(reached.device))
    backend.taylor_finish(
        out,
        Buffer.from_torch(param.to(reached.device)),
        measure=measure,
        out=out,
        minmax=minmax,
        leaves=leaves,
        threads=torch.get_num_threads(),
    )
    if reached is not total:
        total.copy_(reached)
    return _summary(backend, minmax, leaves, total.numel())


def _summarise(values: Tensor) -> Summary:
    """Statistics of an importance as it stands."""
    reached = values.contiguous() if kernels_reach(values) else values.cpu()
    minmax, leaves = _nothing(reached)
    backend = get_backend(device=str(reached.device))
    source = ImportanceSource("lp", Buffer.from_torch(reached))
    backend.ranges([source], minmax[None], [leaves], threads=torch.get_num_threads())
    return _summary(backend, minmax, leaves, reached.numel())


def _nothing(values: Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Range and leaf sums before any element."""
    return np.array((np.inf, -np.inf), np.float32), np.zeros(-(-values.numel() // LEAF), np.float64)


def _summary(backend: Backend, minmax: np.ndarray[Any, Any], leaves: np.ndarray[Any, Any], size: int) -> Summary:
    mean = backend.fold(leaves) / size if size else 0.0
    return Summary(float(minmax[0]), float(minmax[1]), float(np.float32(mean)))


def kernels_reach(tensor: Tensor) -> bool:
    """Whether the kernels can address a tensor's memory."""
    kind = tensor.device.type
    return kind == "cpu" or (kind == "cuda" and triton_problem(kind) is None)
