"""The rooflines themselves, held against loops of somebody else's: a slow roofline would flatter every op."""

from __future__ import annotations

import pytest
import torch

from benchmarks.costs import moved
from benchmarks.harness import Contender, Contest, check_bits
from benchmarks.rooflines import stream_read, stream_sum, triad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_stream_sum(contest: Contest, elements: int, dtype: torch.dtype) -> None:
    b, c = torch.randn(2, elements).to(dtype)
    a, out = torch.empty_like(b), torch.empty_like(b)
    ours = stream_sum([b, c], out)
    ours.run()
    check_bits(out, b + c)
    contenders = (ours, triad(b, c, a), Contender("torch.add", lambda: torch.add(b, c, out=a), ours.n_bytes))
    contest("stream_sum", contenders, _case(dtype, elements))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_stream_read(contest: Contest, elements: int, dtype: torch.dtype) -> None:
    x = torch.rand(4 * elements).to(dtype)
    ours = stream_read([x])
    total = torch.tensor(ours.run(), dtype=torch.float64)
    torch.testing.assert_close(
        total, x.double().sum(), rtol=1e-2, atol=0
    )  # float32 lanes, added for their time and not for their digits
    contest("stream_read", (ours, Contender("torch.sum", x.sum, moved([x]))), _case(dtype, 4 * elements))


def _case(dtype: torch.dtype, n_elements: int) -> dict[str, object]:
    return {"elements": n_elements, "dtype": str(dtype).removeprefix("torch."), "threads": torch.get_num_threads()}
