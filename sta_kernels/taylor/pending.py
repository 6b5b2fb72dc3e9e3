"""Small gradients that wait for each other, so that one launch takes many."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sta_kernels.taylor.arithmetic import accumulate

SMALL = 256 << 10
"""Bytes up to which a gradient waits: biases and norms, which a launch each would cost more than their bytes do."""

BOUND = 4 << 20
"""Bytes that wait at most per device."""


@dataclass
class _Queue:
    """(total, grad) of each gradient that waits on one stream, and the bytes that they hold."""

    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    n_bytes: int = 0


class PendingGradients:
    """Gradients of one backward pass on their way into their sums.

    A large one is added at once. Small ones are held, whole and ours alone, until :data:`BOUND` is exceeded or the
    pass ends. Work stays on the stream on which autograd hands over a parameter's gradient, the same in every pass;
    at the end, the caller's stream waits for it.
    """

    def __init__(self) -> None:
        self._waiting: dict[Any, _Queue] = {}  # by device and stream: their threads share none

    def add(self, total: Tensor, grad: Tensor) -> None:
        """Add |grad| to ``total``, now or with others.

        Args:
            total: the parameter's sum; added to at most once between two calls of :meth:`flush`.
            grad: dense; nobody else may write to it from now on.
        """
        if _bytes(grad) > SMALL:
            accumulate([(total, grad)])
            return
        queue = self._waiting.setdefault((grad.device, _stream(grad.device)), _Queue())
        queue.pairs.append((total, grad))
        queue.n_bytes += _bytes(grad)
        if queue.n_bytes > BOUND:
            accumulate(queue.pairs)
            queue.pairs.clear()
            queue.n_bytes = 0

    def flush(self) -> None:
        """Add all that waits."""
        waiting, self._waiting = self._waiting, {}
        for (device, stream), queue in waiting.items():
            with torch.cuda.stream(stream):
                accumulate(queue.pairs)
            if stream is not None:
                torch.cuda.current_stream(device).wait_stream(stream)


def _bytes(grad: Tensor) -> int:
    return grad.untyped_storage().nbytes()  # of all that a view keeps alive


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    return torch.cuda.current_stream(device) if device.type == "cuda" else None
