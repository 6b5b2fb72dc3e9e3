"""Philox: the known answers of its authors' test vectors, and which draw an element gets."""

from __future__ import annotations

import numpy as np
import pytest

from sta_kernels.kernels.reference.philox import blocks_exact, draws_exact

# (counter, key, answer), each in words from the least significant; of Random123's kat_vectors.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers(counter, key, answer):
    words = blocks_exact(key[0] | key[1] << 32, tuple(np.uint64(word) for word in counter))
    assert tuple(int(word) for word in words) == answer


def test_an_element_gets_a_word_of_its_block():
    seed, tensor, task = 0x299F31D0A4093822, 0x03707344, 0x13198A2E
    block = 0x85A308D3243F6A88
    first = (block << 2) % (1 << 63)  # a tensor cannot be as large as the vector's counter
    words = blocks_exact(seed, (first >> 2 & 0xFFFFFFFF, first >> 34, task, tensor))
    assert draws_exact(seed, tensor, task, first + np.arange(4)).tolist() == words.reshape(-1).tolist()


def test_draws_do_not_depend_on_what_is_drawn_beside_them():
    index = (1 << 34) - 50 + np.arange(100)  # the counter carries into its second word
    together = draws_exact(7, 8, 9, index)
    assert np.array_equal(together, np.concatenate([draws_exact(7, 8, 9, index[i : i + 1]) for i in range(100)]))
    assert len(set(together.tolist())) == 100


def test_seeds_tensors_and_tasks_draw_apart():
    index = np.arange(4096)
    first = draws_exact(1, 2, 3, index)
    for other in ((1 << 63 | 1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert np.count_nonzero(first == draws_exact(*other, index)) <= 1


def test_draws_are_even():
    draws = draws_exact(5, 6, 7, np.arange(1 << 16))
    counts = np.bincount((draws >> np.uint64(28)).astype(np.int64), minlength=16)
    assert abs(counts - (1 << 12)).max() < 5 * 62  # five standard deviations
