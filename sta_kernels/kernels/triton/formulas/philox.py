"""Philox4x32-10 draws of consecutive elements: a block of four words serves four of them.

See :mod:`sta_kernels.kernels.reference.philox`.
"""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK_OF_DRAWS = 4
"""Elements that share a block of random words."""


@triton.jit
def draws(seed, tensor, task, index):
    """A uniform 32-bit integer for each element, uint32.

    Where the first element's index is a multiple of four, a block is computed once for the four elements that it
    serves; elsewhere once for each.
    """
    here = index[2]
    if index[3]:
        number = ((index[0] + index[1]) >> 2) + tl.arange(0, here.shape[0] // 4)
        w0, w1, w2, w3 = _block(seed, tensor, task, number)
        return tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), here.shape)
    else:
        element = index[0] + here
        w0, w1, w2, w3 = _block(seed, tensor, task, element >> 2)
        word = (element & 3).to(tl.int32)
        return tl.where(word < 2, tl.where(word == 0, w0, w1), tl.where(word == 2, w2, w3))


@triton.jit
def _block(seed, tensor, task, number):
    """The four words of the blocks of some numbers."""
    return tl.philox(
        seed,
        (number & 0xFFFFFFFF).to(tl.uint32),
        (number >> 32).to(tl.uint32),
        task.to(tl.uint32),
        tensor.to(tl.uint32),
    )
