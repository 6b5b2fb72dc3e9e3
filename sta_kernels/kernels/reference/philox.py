"""Philox4x32-7 (Salmon et al., SC 2011): random numbers that depend on a key and a counter alone.

A draw has 32 bits, which come from two blocks: element e of task t has the (e mod 8)-th 16 bits of a block as its high
half, and those of another as its low half. Their counters are (⌊e/8⌋ as 64 bits, t, hash of the tensor's name), of the
low half with the topmost bit of ⌊e/8⌋ set. So neither tiles, nor threads, nor the order of tensors changes a draw, a
block serves eight elements, and to compare a draw with a number, its low half is seldom needed.

Seven rounds are the fewest that pass all of TestU01's BigCrush by the authors' account.
"""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.dtypes import Array

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 7
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_LOW_HALVES = np.uint64(0x80000000)
"""In a counter's second word: the block has the low halves of draws."""


def blocks_exact(key: int, counter: tuple[Array, Array, Array, Array]) -> Array:
    """The four words of each block.

    Args:
        key: 64 bits.
        counter: four words, each uint64 [n] (or a scalar) below 2³².

    Returns:
        uint64 [4, n], each below 2³².
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(word, np.uint64) for word in counter))
    low, high = key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF
    for _ in range(_ROUNDS):
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (second >> _HALF) ^ c1 ^ np.uint64(low), second & _LOW
        c2, c3 = (first >> _HALF) ^ c3 ^ np.uint64(high), first & _LOW
        low, high = low + _WEYL[0] & 0xFFFFFFFF, high + _WEYL[1] & 0xFFFFFFFF
    return np.stack((c0, c1, c2, c3))


def draws_exact(seed: int, tensor: int, task: int, index: Array) -> Array:
    """A uniform 32-bit integer for each element.

    Args:
        seed: 64 bits; the key.
        tensor: 32-bit hash of the tensor's name.
        task: 32 bits.
        index: int64 [n], of the elements in their tensor.

    Returns:
        uint64 [n], each below 2³².
    """
    index = np.asarray(index, np.uint64)
    block, part = index >> np.uint64(3), index & np.uint64(7)
    halves = []
    for mark in (np.uint64(0), _LOW_HALVES):
        words = blocks_exact(seed, (block & _LOW, block >> _HALF | mark, np.uint64(task), np.uint64(tensor)))
        word = words[(part >> np.uint64(1)).astype(np.int64), np.arange(len(index))]
        halves.append(word >> (part & np.uint64(1)) * np.uint64(16) & np.uint64(0xFFFF))
    return halves[0] << np.uint64(16) | halves[1]
