"""The two steps of Taylor importance on one parameter tensor."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sta_kernels.kernels.backend import LEAF
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.reference.environment import ieee_arithmetic
from sta_kernels.ops import _checks as check
from sta_kernels.ops import _schemas
from sta_kernels.ops._backends import host_backend, launching
from sta_kernels.ops._schemas import implement


def taylor_accumulate_(total: Tensor, grad: Tensor) -> Tensor:
    """Add the magnitude of one sample's gradient, in place.

    ``S ← S + |g|``: the sum of eq. 12 of Selective Task Arithmetic (arXiv 2411.16139). The absolute value is taken per
    sample: a batch's gradient gives another result.

    Args:
        total: S, of any shape and strides; float32, bfloat16, float16 or float64. float32 keeps every sample.
        grad: g, one sample's gradient; of the total's shape and device, any floating dtype.

    Returns:
        ``total``.

    Raises:
        TypeError: a dtype that no kernel reads (integer, complex, float8), a sparse tensor, or no tensor at all.
        ValueError: shapes or devices differ, or the two share memory in part.

    Numerics:
        One float32 addition, rounded once to the total's dtype.
    """
    _taylor_accumulate_(check.tensor("total", total), check.tensor("grad", grad))
    return total


def taylor_finish(
    total: Tensor, param: Tensor, *, measure: str = "lp", out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Turn the accumulated gradient magnitudes into an importance, and take its statistics on the way.

    "lp": ``I = |θ|·S`` (eq. 10 to 12 of Selective Task Arithmetic, arXiv 2411.16139); "amp": ``I = θ²`` (eq. 21);
    "lp_amp": ``I = (|θ|·S)·θ²`` (eq. 22).

    Args:
        total: S, from :func:`taylor_accumulate_`; of any shape and strides; float32, bfloat16, float16 or float64.
            Measure "amp" takes its shape and dtype only.
        param: θ, the parameter that the gradients belong to; of the total's shape and device, any floating dtype.
        measure: "lp", "amp" or "lp_amp".
        out: receives the importance; of the total's shape and device, any floating dtype. It may be ``total`` itself,
            but may not share memory with an operand in another way.

    Returns:
        importance: ``out``, or a new contiguous tensor of the total's dtype.
        stats: float32 [3], minimum, maximum and mean of the importance as written. Both ends of the range are NaN
            where it holds a NaN; an empty tensor has (inf, −inf, 0).

    Raises:
        TypeError: a dtype that no kernel reads (integer, complex, float8), a sparse tensor, or no tensor at all.
        ValueError: a shape, device or measure that does not fit; the message names it.

    Numerics:
        float32 products in the order written, rounded once to the output dtype. The mean is a float64 sum in a fixed
        order (leaves of 4,096 elements of the flattened tensor, folded pairwise), divided by the number of elements
        and rounded to float32.
    """
    check.tensor("total", total)
    check.tensor("param", param)
    if out is None:
        return _taylor_finish(total, param, measure)
    return out, _taylor_finish_out(total, param, measure, out)


def _accumulate(total: Tensor, grad: Tensor) -> None:
    _schemas.taylor_accumulate_(total, grad)
    check.no_overlap(total, [("grad", grad)], in_place=True, name="total")
    backend = host_backend(total.device)
    if backend is None:
        with launching(total.device) as launch:
            launch.taylor_accumulate(total, grad)
    else:
        threads = torch.get_num_threads()
        backend.taylor_accumulate(Buffer.from_torch(total), Buffer.from_torch(grad), threads=threads)
    torch.autograd.graph.increment_version(total)


def _finish_new(total: Tensor, param: Tensor, measure: str) -> tuple[Tensor, Tensor]:
    out, stats = _schemas.taylor_finish(total, param, measure)
    _launch_finish(total, param, measure, out, stats)
    return out, stats


def _finish_into(total: Tensor, param: Tensor, measure: str, out: Tensor) -> Tensor:
    stats = _schemas.taylor_finish_out(total, param, measure, out)
    check.no_overlap(out, [("total", total)], in_place=True)
    check.no_overlap(out, [("param", param)], in_place=False)
    _launch_finish(total, param, measure, out, stats)
    torch.autograd.graph.increment_version(out)
    return stats


@ieee_arithmetic()
def _launch_finish(total: Tensor, param: Tensor, measure: str, out: Tensor, stats: Tensor) -> None:
    backend = host_backend(total.device)
    if backend is None:
        with launching(total.device) as launch:
            launch.taylor_finish(total, param, measure, out, stats)
        return
    n_elements = total.numel()
    values = stats.numpy()
    values[:] = (np.inf, -np.inf, 0.0)
    leaves = np.empty(-(-n_elements // LEAF), np.float64)
    backend.taylor_finish(
        Buffer.from_torch(total),
        Buffer.from_torch(param),
        measure=measure,
        out=Buffer.from_torch(out),
        minmax=values[:2],
        leaves=leaves,
        threads=torch.get_num_threads(),
    )
    if n_elements:
        values[2] = backend.fold(leaves) / n_elements


implement("taylor_accumulate_", _accumulate)
implement("taylor_finish", _finish_new)
implement("taylor_finish_out", _finish_into)
_taylor_accumulate_ = torch.ops.sta_kernels.taylor_accumulate_.default
_taylor_finish = torch.ops.sta_kernels.taylor_finish.default
_taylor_finish_out = torch.ops.sta_kernels.taylor_finish_out.default
