"""Philox: the known answers of its authors' test vectors, which draw an element gets, and how even the draws are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sta_kernels.kernels.reference.philox import blocks_exact, draws_exact

# (counter, key, answer), each in words from the least significant; of Random123's kat_vectors, at seven rounds.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A),
    ),
]
N = 1 << 17


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers(counter, key, answer):
    words = blocks_exact(key[0] | key[1] << 32, tuple(np.uint64(word) for word in counter))
    assert tuple(int(word) for word in words) == answer


def test_an_element_gets_its_halves_of_two_blocks():
    seed, tensor, task = 0x299F31D0A4093822, 0x03707344, 0x13198A2E
    first = 0x05A308D3243F6A88 << 3 & (1 << 63) - 1
    counter = (first >> 3 & 0xFFFFFFFF, first >> 35)
    high, low = (
        blocks_exact(seed, (np.uint64(counter[0]), np.uint64(counter[1] | mark), np.uint64(task), np.uint64(tensor)))
        for mark in (0, 1 << 31)
    )
    halves = [words.astype("<u4").reshape(-1).view("<u2").astype(np.uint64) for words in (high, low)]
    assert (
        draws_exact(seed, tensor, task, first + np.arange(8)).tolist()
        == (halves[0] << np.uint64(16) | halves[1]).tolist()
    )


def test_draws_do_not_depend_on_what_is_drawn_beside_them():
    index = (1 << 35) - 50 + np.arange(100)  # the counter carries into its second word
    together = draws_exact(7, 8, 9, index)
    assert np.array_equal(together, np.concatenate([draws_exact(7, 8, 9, index[i : i + 1]) for i in range(100)]))
    assert len(set(together.tolist())) == 100


def test_seeds_tensors_and_tasks_draw_apart():
    index = np.arange(4096)
    first = draws_exact(1, 2, 3, index)
    for other in ((1 << 63 | 1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert np.count_nonzero(first == draws_exact(*other, index)) <= 1


@pytest.mark.parametrize("bits", [0, 4, 12, 16, 20, 28])
def test_draws_are_even(bits):
    """Four bits of them at a time, over both halves."""
    digits = (draws_exact(5, 6, 7, np.arange(N)) >> np.uint64(bits)).astype(np.int64) & 15
    assert abs(np.bincount(digits, minlength=16) - N / 16).max() < 5 * np.sqrt(N / 16)


def test_moments():
    uniform = draws_exact(3, 1, 4, np.arange(N)) / 2.0**32
    for power in (1, 2, 3, 4):
        variance = 1 / (2 * power + 1) - 1 / (power + 1) ** 2
        assert abs((uniform**power).mean() - 1 / (power + 1)) < 5 * np.sqrt(variance / N)


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.5, 0.9, 0.999])
def test_rates(share):
    """Of each place within a block too."""
    kept = draws_exact(2, 7, 1, np.arange(N)) < np.uint64(int(share * 2**32))
    for place in (slice(None), *(slice(first, None, 8) for first in range(8))):
        n = kept[place].size
        assert abs(kept[place].mean() - share) < 5 * np.sqrt(share * (1 - share) / n)


def correlation(a, b):
    """In standard deviations of that of independent numbers."""
    centred = [values.astype(np.float64) / 2**32 - 0.5 for values in (a, b)]
    return float((centred[0] * centred[1]).sum() * 12 / np.sqrt(len(a)))


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 7, 8, 16, 64, 4096])
def test_elements_are_independent(distance):
    draws = draws_exact(9, 2, 6, np.arange(N))
    assert abs(correlation(draws[distance:], draws[:-distance])) < 5


def test_tasks_tensors_seeds_and_halves_are_independent():
    index = np.arange(N)
    keys = [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0), (0, 1 << 31, 0), (1, 0, 0), (1 << 32, 0, 0)]
    draws = [draws_exact(*key, index) for key in keys]
    for a, b in itertools.combinations(draws, 2):
        assert abs(correlation(a, b)) < 5
    low = draws[0] << np.uint64(16) & np.uint64(0xFFFFFFFF)
    assert abs(correlation(draws[0], low)) < 5
