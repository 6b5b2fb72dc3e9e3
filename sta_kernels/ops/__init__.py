"""Fused ops on one parameter tensor: PyTorch tensors in, PyTorch tensors out.

Each op is registered with ``torch.library`` under ``torch.ops.sta_kernels``, with a functional form and, where a
result can be large, one that writes into ``out``; functions that call them compile with
``torch.compile(fullgraph=True)``. The compiler makes a constant of every number that it hands to an op: it compiles
again for another ``weight``, ``lambda_`` or ``sta_forget``'s p, and once for each of the N outcomes of ``sta_merge``'s
p (``torch._dynamo.config.recompile_limit`` bounds how often). Merging is not differentiated: parameters that require a
gradient are read as plain values.

Besides what is listed here, there is a function for every merging method, ``ops.ties(base, finetuned, density=0.2)``.
"""

from typing import Any

from sta_kernels.ops.linear import linear, task_arithmetic
from sta_kernels.ops.merge_tensor import merge_tensor
from sta_kernels.ops.sta_forget import sta_forget
from sta_kernels.ops.sta_merge import sta_merge
from sta_kernels.ops.statistics import minmax, normaliser, order_statistic
from sta_kernels.ops.taylor import taylor_accumulate_, taylor_finish

__all__ = [
    "linear",
    "merge_tensor",
    "minmax",
    "normaliser",
    "order_statistic",
    "sta_forget",
    "sta_merge",
    "task_arithmetic",
    "taylor_accumulate_",
    "taylor_finish",
]


def __getattr__(name: str) -> Any:
    """A method's function, made when it is first asked for."""
    from sta_kernels import methods
    from sta_kernels.ops.merge_tensor import function_of

    if name not in methods.names():
        raise AttributeError(f"module 'sta_kernels.ops' has no attribute {name!r}")
    globals()[name] = function_of(methods.get(name))
    return globals()[name]


def __dir__() -> list[str]:
    from sta_kernels import methods

    return sorted({*__all__, *methods.names()})
