"""Selection networks: which pairs of N values to exchange so that the r-th smallest ends up in its place."""

from __future__ import annotations

import functools

Pair = tuple[int, int]
"""Exchange of two places: the smaller value goes to the first."""

# Sorting networks with the fewest exchanges (Knuth, The Art of Computer Programming 3, 5.3.4).
_SHORTEST: dict[int, tuple[Pair, ...]] = {
    2: ((0, 1),),
    3: ((0, 2), (0, 1), (1, 2)),
    4: ((0, 2), (1, 3), (0, 1), (2, 3), (1, 2)),
    5: ((0, 3), (1, 4), (0, 2), (1, 3), (0, 1), (2, 4), (1, 2), (3, 4), (2, 3)),
    6: ((0, 5), (1, 3), (2, 4), (1, 2), (3, 4), (0, 3), (2, 5), (0, 1), (2, 3), (4, 5), (1, 2), (3, 4)),
    7: (
        *((0, 6), (2, 3), (4, 5), (0, 2), (1, 4), (3, 6), (0, 1), (2, 5), (3, 4), (1, 2), (4, 6), (2, 3), (4, 5)),
        *((1, 2), (3, 4), (5, 6)),
    ),
    8: (
        *((0, 2), (1, 3), (4, 6), (5, 7), (0, 4), (1, 5), (2, 6), (3, 7), (0, 1), (2, 3), (4, 5), (6, 7), (2, 4)),
        *((3, 5), (1, 4), (3, 6), (1, 2), (3, 4), (5, 6)),
    ),
}


@functools.cache
def selection_network(n: int, rank: int) -> tuple[Pair, ...]:
    """Exchanges that bring the ``rank``-th smallest (1-based) of ``n`` values to place ``rank − 1``.

    Of several networks, the one whose exchanges cost the fewest minima and maxima once what does not lead to the
    result is left out.
    """
    if not 1 <= rank <= n:
        raise ValueError(f"rank {rank}: expected 1 to {n}")
    candidates = [_bubbles(n, rank)]
    for network in (_merge_exchange(n), _SHORTEST.get(n)):
        if network is not None:
            mirrored = tuple((n - 1 - b, n - 1 - a) for a, b in network)
            candidates += [network, mirrored]
    return min((_prune(network, rank) for network in candidates), key=lambda network: cost(network, rank))


def cost(network: tuple[Pair, ...], rank: int) -> int:
    """Minima and maxima that the result depends on."""
    needed = {rank - 1}
    operations = 0
    for pair in reversed(network):
        used = needed.intersection(pair)
        if used:
            operations += len(used)
            needed.update(pair)
    return operations


def _prune(network: tuple[Pair, ...], rank: int) -> tuple[Pair, ...]:
    needed = {rank - 1}
    kept: list[Pair] = []
    for pair in reversed(network):
        if needed.intersection(pair):
            needed.update(pair)
            kept.append(pair)
    return tuple(reversed(kept))


def _bubbles(n: int, rank: int) -> tuple[Pair, ...]:
    """Bubble passes from the nearer end."""
    if rank <= n - rank + 1:
        return tuple((j - 1, j) for done in range(rank) for j in range(n - 1, done, -1))
    return tuple((j, j + 1) for done in range(n - rank + 1) for j in range(n - 1 - done))


def _merge_exchange(n: int) -> tuple[Pair, ...]:
    """Batcher's merge exchange (Knuth, 5.2.2, algorithm M)."""
    pairs: list[Pair] = []
    top = 1
    while 2 * top < n:
        top *= 2
    p = top
    while p > 0:
        q, part, distance = top, 0, p
        while True:
            pairs += [(j, j + distance) for j in range(n - distance) if j & p == part]
            if q == p:
                break
            distance, q, part = q - p, q // 2, p
        p //= 2
    return tuple(pairs)
