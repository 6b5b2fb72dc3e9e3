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
def finish(pairs: Sequence[tuple[Tensor, Tensor]], measure: str) -> list[Summary]:
    """Turn the sums of |g| into importances, in place, and take their ranges and means on the way.

    ``lp``: |θ|·S (eq. 12); ``lp_amp``: (|θ|·S)·θ² (eq. 22); ``amp``: θ², whatever the sum held (eq. 21). Those of a
    device are finished together. A tensor that no kernel reaches visits this computer's memory, and a parameter that
    lies elsewhere its sum's device, one at a time, once per run. The statistics of a sharded one are those of the
    whole, which is gathered for them, again one at a time.

    Args:
        pairs: (S, θ) per parameter. S: float32 or bfloat16, contiguous; receives the importance, rounded once to its
            dtype. θ: of the same shape, sharded alike; any floating dtype or device.
        measure: "lp", "amp" or "lp_amp".

    Returns:
        Minimum, maximum and mean of what was written, per parameter. The mean is a tier-B sum in float64 over the
        number of elements, rounded to float32. An empty tensor has the range (inf, −inf) and the mean 0.
    """
    shards = [(local(total), local(param)) for total, param in pairs]
    summaries: dict[int, Summary] = {}
    groups: dict[object, list[int]] = {}
    for i, (total, param) in enumerate(shards):
        together = kernels_reach(total) and param.device == total.device
        groups.setdefault(total.device if together else i, []).append(i)
    for indices in groups.values():
        summaries.update(zip(indices, _finish([shards[i] for i in indices], measure), strict=True))
    return [summarise(whole(total)) if is_sharded(total) else summaries[i] for i, (total, _) in enumerate(pairs)]


@ieee_arithmetic()
def average(totals: Sequence[Tensor], samples: int) -> list[Summary]:
    """Divide sums over samples by their number, in place: ``RN(S / n)``.

    Args:
        totals: float32 or bfloat16, contiguous; sharded ones stay so.
        samples: n.

    Returns:
        As :func:`finish`.
    """
    for total in totals:
        mine = local(total)
        # A tensor: by a number of Python's, a GPU would multiply with the reciprocal.
        mine.copy_(mine.float() / torch.tensor(float(max(samples, 1)), device=mine.device))
    return [summarise(whole(total)) for total in totals]


def _finish(pairs: Sequence[tuple[Tensor, Tensor]], measure: str) -> list[Summary]:
    """Those of one device, together; or one alone, whose operands may have to be brought to where a kernel reads."""
    reached = [total if kernels_reach(total) else total.cpu() for total, _ in pairs]
    device = reached[0].device
    items = []
    for there, (_, param) in zip(reached, pairs, strict=True):
        out = Buffer.from_torch(there)
        items.append((out, Buffer.from_torch(param.to(device)), out))
    backend = get_backend(device=str(device))
    ranges, sums = backend.taylor_finish_many(items, measure=measure, threads=torch.get_num_threads())
    for there, (total, _) in zip(reached, pairs, strict=True):
        if there is not total:
            total.copy_(there)
    return [
        _summary(minmax, float(tier_b), there.numel())
        for minmax, tier_b, there in zip(ranges, sums, reached, strict=True)
    ]


def summarise(values: Tensor) -> Summary:
    """Statistics of an importance as it stands."""
    reached = values.contiguous() if kernels_reach(values) else values.cpu()
    minmax, leaves = np.array((np.inf, -np.inf), np.float32), np.zeros(-(-reached.numel() // LEAF), np.float64)
    backend = get_backend(device=str(reached.device))
    source = ImportanceSource("lp", Buffer.from_torch(reached))
    backend.ranges([source], minmax[None], [leaves], threads=torch.get_num_threads())
    return _summary(minmax, backend.fold(leaves), reached.numel())


def _summary(minmax: np.ndarray[Any, Any], tier_b: float, size: int) -> Summary:
    mean = tier_b / size if size else 0.0
    return Summary(float(minmax[0]), float(minmax[1]), float(np.float32(mean)))


def kernels_reach(tensor: Tensor) -> bool:
    """Whether the kernels can address a tensor's memory."""
    kind = tensor.device.type
    return kind == "cpu" or (kind == "cuda" and triton_problem(kind) is None)
