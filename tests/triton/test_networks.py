"""Selection networks by the 0-1 principle: a network that selects among zeros and ones selects among all values."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("triton")

from sta_kernels.kernels.triton.networks import cost, selection_network


@pytest.mark.parametrize("n", range(1, 17))
def test_every_rank(n: int) -> None:
    inputs = np.arange(1 << n, dtype=np.uint32)
    for rank in range(1, n + 1):
        values = [(inputs >> i & 1).astype(bool) for i in range(n)]
        for low, high in selection_network(n, rank):
            values[low], values[high] = values[low] & values[high], values[low] | values[high]
        ones = sum((inputs >> i & 1).astype(np.int64) for i in range(n))
        assert np.array_equal(values[rank - 1], ones > n - rank), rank


def test_a_network_without_one_exchange_is_wrong() -> None:
    network = selection_network(6, 4)
    inputs = np.arange(1 << 6, dtype=np.uint32)
    ones = sum((inputs >> i & 1).astype(np.int64) for i in range(6))
    for dropped in range(len(network)):
        values = [(inputs >> i & 1).astype(bool) for i in range(6)]
        for low, high in network[:dropped] + network[dropped + 1 :]:
            values[low], values[high] = values[low] & values[high], values[low] | values[high]
        assert not np.array_equal(values[3], ones > 2)


def test_cost_counts_what_leads_to_the_result() -> None:
    assert [cost(selection_network(n, 1), 1) for n in (1, 2, 3, 8)] == [0, 1, 2, 7]
    assert cost(selection_network(6, 4), 4) == 15
    assert all(
        cost(selection_network(n, r), r) == cost(selection_network(n, n + 1 - r), n + 1 - r)
        for n in range(1, 17)
        for r in range(1, n + 1)
    )


@pytest.mark.parametrize(("n", "rank"), [(3, 0), (3, 4)])
def test_a_rank_out_of_range_is_refused(n: int, rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank {rank}"):
        selection_network(n, rank)
