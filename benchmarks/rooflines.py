"""What no op can be faster than: native loops over the same streams that only add, and what those are held against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.costs import moved
from benchmarks.harness import Contender
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.native import NativeBackend


def stream_sum(inputs: Sequence[Tensor], out: Tensor) -> Contender:
    """Read the inputs, write their sum."""
    core, buffers, result = NativeBackend(), [Buffer.from_torch(each) for each in inputs], Buffer.from_torch(out)
    threads = torch.get_num_threads()
    return Contender("stream_sum", lambda: core.stream_sum(buffers, result, threads=threads), moved((*inputs, out)))


def stream_read(inputs: Sequence[Tensor]) -> Contender:
    """Read the inputs and add everything up."""
    core, buffers = NativeBackend(), [Buffer.from_torch(each) for each in inputs]
    threads = torch.get_num_threads()
    return Contender("stream_read", lambda: core.stream_read(buffers, threads=threads), moved(inputs))


def one_after_the_other(first: Contender, second: Contender) -> Contender:
    """Two passes, as an op makes them that needs a statistic first."""

    def run() -> None:
        first.run()
        second.run()

    return Contender(f"{first.name} + {second.name}", run, first.n_bytes + second.n_bytes)


def triad(b: Tensor, c: Tensor, a: Tensor) -> Contender:
    """STREAM's ``a = b + 3c`` in PyTorch: a loop of somebody else's."""
    return Contender("triad", lambda: torch.add(b, c, alpha=3, out=a), moved((b, c, a)))
