"""Tables for a CUDA graph: written on the device by kernels that have the words as arguments.

A copy from pinned memory that a graph records is read again at every replay, when the staging memory has long been
given to somebody else. Arguments of a kernel belong to the graph. So while a stream is being captured, what would be
uploaded is written by as few launches as hold it: a run of words in arithmetic progression (the chunks of a tensor)
takes one, whatever its length, other words some dozens per launch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

PER_LAUNCH = 24
"""Words that one launch carries besides runs."""

LEAST_RUN = 48
"""Words in progression from which a launch of their own is worth it."""

_BLOCK = 1024
_ARGUMENTS = [f"w{i}" for i in range(PER_LAUNCH)]


def capturing(device: torch.device) -> bool:
    """Whether work that is given to the device now becomes part of a graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


@functools.cache
def prepare(device_index: int) -> None:
    """Compile and load the kernels below, once per device: during a capture that is not allowed."""
    there = torch.empty(2 * LEAST_RUN, dtype=torch.int64, device=torch.device("cuda", device_index))
    write(there, np.concatenate((np.arange(LEAST_RUN) % 2, np.arange(LEAST_RUN))))


def write(there: torch.Tensor, words: np.ndarray[Any, Any]) -> None:
    """Set a device tensor without any memory of the host that would have to live on.

    Args:
        there: int64 [n], contiguous, on the current device; on the CPU in the interpreter.
        words: int64 [n].
    """
    literals: list[int] = []
    begin = 0
    for start, stop in [*_runs(words), (len(words), len(words))]:
        for first in range(begin, start, PER_LAUNCH):
            literals = words[first : min(first + PER_LAUNCH, start)].tolist()
            count = len(literals)
            _words_kernel[(1,)](there[first:], count, *literals, *[0] * (PER_LAUNCH - count), num_warps=1)
        if stop > start:
            step = _wrapped(int(words[start + 1]) - int(words[start]))
            count = stop - start
            _run_kernel[(-(-count // _BLOCK),)](there[start:], count, int(words[start]), step, BLOCK=_BLOCK)
        begin = stop


def _runs(words: np.ndarray[Any, Any]) -> Iterator[tuple[int, int]]:
    """Where long arithmetic progressions (modulo 2⁶⁴) begin and end, in order, without overlap."""
    if len(words) < LEAST_RUN:
        return
    with np.errstate(over="ignore"):
        steps = np.diff(words)
    changes = np.flatnonzero(np.diff(steps)) + 1  # where a step differs from the one before
    begin = 0
    for first, last in zip([0, *changes.tolist()], [*changes.tolist(), len(steps)], strict=True):
        # Steps first to last − 1 are equal: words first to last are in progression; the first may be taken already.
        begin = max(begin, first)
        if last + 1 - begin >= LEAST_RUN:
            yield begin, last + 1
            begin = last + 1


def _wrapped(value: int) -> int:
    """The int64 with the same lowest 64 bits."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


# Types are fixed, and no value or alignment is special: one compilation serves all tables.
@triton.jit(do_not_specialize=["count", *_ARGUMENTS], do_not_specialize_on_alignment=["there_ptr"])
def _words_kernel(
    there_ptr,  # int64 [count]
    count: tl.int32,
    w0: tl.int64,
    w1: tl.int64,
    w2: tl.int64,
    w3: tl.int64,
    w4: tl.int64,
    w5: tl.int64,
    w6: tl.int64,
    w7: tl.int64,
    w8: tl.int64,
    w9: tl.int64,
    w10: tl.int64,
    w11: tl.int64,
    w12: tl.int64,
    w13: tl.int64,
    w14: tl.int64,
    w15: tl.int64,
    w16: tl.int64,
    w17: tl.int64,
    w18: tl.int64,
    w19: tl.int64,
    w20: tl.int64,
    w21: tl.int64,
    w22: tl.int64,
    w23: tl.int64,
):
    words = (w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12)
    words += (w13, w14, w15, w16, w17, w18, w19, w20, w21, w22, w23)
    for i in tl.static_range(len(words)):
        tl.store(there_ptr + i, words[i].to(tl.int64), mask=i < count)


@triton.jit(do_not_specialize=["count", "first", "step"], do_not_specialize_on_alignment=["there_ptr"])
def _run_kernel(
    there_ptr,  # int64 [count]
    count: tl.int64,
    first: tl.int64,
    step: tl.int64,
    BLOCK: tl.constexpr,
):
    here = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(there_ptr + here, first.to(tl.int64) + here * step.to(tl.int64), mask=here < count)
