"""The two steps of eq. 12 on torch tensors: accumulate |g| per sample, then multiply by |θ| once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sta_kernels.kernels import get_backend
from sta_kernels.kernels.backend import LEAF
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.reference.environment import ieee_arithmetic
from sta_kernels.methods.statistics import Summary


def accumulate(total: Tensor, grad: Tensor) -> None:
    """Add one sample's |g| in place: ``total = RN(total + |g|)`` (the sum of eq. 12).

    Where no kernel reaches the memory, plain torch operations do the same: one exact step and one rounded addition,
    hence the same bits.

    Args:
        total: float32 or bfloat16, contiguous; where it lies decides where the addition runs.
        grad: the gradient of one sample, of the same shape; any floating dtype, layout or device.
    """
    if grad.layout is not torch.strided:  # nn.Embedding(sparse=True); repeated rows are summed here, before the abs
        grad = grad.to_dense()
    grad = grad.detach().to(total.device)
    if kernels_reach(total):
        get_backend().taylor_accumulate(
            Buffer.from_torch(total), Buffer.from_torch(grad), threads=torch.get_num_threads()
        )
    else:
        # float32 before the sum: in float64 or bfloat16 it would be rounded at other places.
        total.copy_(total.to(torch.float32) + grad.to(torch.float32).abs())


@ieee_arithmetic()
def finish(total: Tensor, param: Tensor, measure: str) -> Summary:
    """Turn the sum of |g| into the importance, in place, and take its range and mean on the way.

    ``lp``: |θ|·S (eq. 12); ``lp_amp``: (|θ|·S)·θ² (eq. 22); ``amp``: θ², whatever ``total`` held (eq. 21). A tensor
    on another device visits this computer's memory, one at a time, once per run.

    Args:
        total: S, float32 or bfloat16, contiguous; receives the importance, rounded once to its dtype.
        param: θ, of the same shape; any floating dtype or device.
        measure: "lp", "amp" or "lp_amp".

    Returns:
        Minimum, maximum and mean of what was written. The mean is a tier-B sum in float64 over the number of
        elements, rounded to float32. An empty tensor has the range (inf, −inf) and the mean 0.
    """
    host = total if kernels_reach(total) else total.cpu()
    minmax = np.array((np.inf, -np.inf), np.float32)
    leaves = np.zeros(-(-host.numel() // LEAF), np.float64)
    out = Buffer.from_torch(host)
    backend = get_backend()
    backend.taylor_finish(
        out,
        Buffer.from_torch(param.detach().cpu()),
        measure=measure,
        out=out,
        minmax=minmax,
        leaves=leaves,
        threads=torch.get_num_threads(),
    )
    if host is not total:
        total.copy_(host)
    mean = backend.fold(leaves) / host.numel() if host.numel() else 0.0
    return Summary(float(minmax[0]), float(minmax[1]), float(np.float32(mean)))


def kernels_reach(tensor: Tensor) -> bool:
    """Whether the kernels can address a tensor's memory."""
    return tensor.device.type == "cpu"
