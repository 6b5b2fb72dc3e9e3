"""Philox4x32-7 draws of consecutive elements: two blocks of four words serve eight of them.

See :mod:`sta_kernels.kernels.reference.philox`.
"""

from __future__ import annotations

import triton
import triton.language as tl

_BLOCK = 8
"""Elements that share a block of random words."""

_ROUNDS: tl.constexpr = tl.constexpr(7)
_LOW_HALVES: tl.constexpr = tl.constexpr(0x80000000)


def drawn_together(offset: int, per_thread: int) -> int:
    """Elements for which a thread draws at once, 8, 4 or 1.

    A block serves eight. A thread that holds four computes it all the same: to exchange draws costs more.

    Args:
        offset: index of the first element.
        per_thread: consecutive elements that a thread holds.
    """
    if offset % _BLOCK == 0 and per_thread >= _BLOCK:
        return _BLOCK
    return 4 if offset % 4 == 0 else 1


@triton.jit
def draws(seed, tensor, task, index):
    """A uniform 32-bit integer for each element, uint32; ``index[3]`` of them at once (:func:`drawn_together`)."""
    here = index[2]
    if index[3] == 8:
        number = ((index[0] + index[1]) >> 3) + tl.arange(0, here.shape[0] // 8)
        h0, h1, h2, h3 = _block(seed, tensor, task, number, 0)
        l0, l1, l2, l3 = _block(seed, tensor, task, number, _LOW_HALVES)
        even = tl.join(tl.join(_even(h0, l0), _even(h2, l2)), tl.join(_even(h1, l1), _even(h3, l3)))
        odd = tl.join(tl.join(_odd(h0, l0), _odd(h2, l2)), tl.join(_odd(h1, l1), _odd(h3, l3)))
        return tl.reshape(tl.join(even, odd), here.shape)
    elif index[3] == 4:
        number = ((index[0] + index[1]) >> 2) + tl.arange(0, here.shape[0] // 4)
        h0, h1 = _words(seed, tensor, task, number, 0)
        l0, l1 = _words(seed, tensor, task, number, _LOW_HALVES)
        even = tl.join(_even(h0, l0), _even(h1, l1))
        return tl.reshape(tl.join(even, tl.join(_odd(h0, l0), _odd(h1, l1))), here.shape)
    else:
        element = index[0] + here
        second = element & 2 != 0
        h0, h1 = _words(seed, tensor, task, element >> 2, 0)
        l0, l1 = _words(seed, tensor, task, element >> 2, _LOW_HALVES)
        high, low = tl.where(second, h1, h0), tl.where(second, l1, l0)
        return tl.where(element & 1 == 0, _even(high, low), _odd(high, low))


@triton.jit
def _even(high, low):
    """The draw of the first of the two elements that two words serve."""
    return (high << 16) | (low & 0xFFFF)


@triton.jit
def _odd(high, low):
    """That of the second."""
    return (high & 0xFFFF0000) | (low >> 16)


@triton.jit
def _words(seed, tensor, task, four, HALF: tl.constexpr):
    """The two words that serve each four elements."""
    w0, w1, w2, w3 = _block(seed, tensor, task, four >> 1, HALF)
    second = four & 1 != 0
    return tl.where(second, w2, w0), tl.where(second, w3, w1)


@triton.jit
def _block(seed, tensor, task, number, HALF: tl.constexpr):
    """The four words of the blocks of some numbers."""
    return tl.philox(
        seed,
        (number & 0xFFFFFFFF).to(tl.uint32),
        ((number >> 32) | HALF).to(tl.uint32),
        task.to(tl.uint32),
        tensor.to(tl.uint32),
        n_rounds=_ROUNDS,
    )
