"""``ops.sta_forget`` against a read of the importance and one pass over all streams."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks import baselines, costs
from benchmarks.harness import Contender, Contest, check_bits, check_mostly_equal, reference
from benchmarks.operands import FORMATS, case, operands
from benchmarks.rooflines import one_after_the_other, stream_read, stream_sum
from sta_kernels import ops

P = 0.7


@pytest.mark.parametrize("formats", FORMATS)
def test_sta_forget(contest: Contest, elements: int, formats: str) -> None:
    o = operands(formats, 1, elements)
    target, (finetuned,), (importance,) = o.base + o.finetuned[0], o.finetuned, o.importances

    def forget() -> Tensor:
        return ops.sta_forget(target, o.base, finetuned, importance, p=P, out=o.out)

    def eager() -> Tensor:
        return baselines.sta_forget_eager(target, o.base, finetuned, importance, P)

    forget()
    with reference():
        expected = ops.sta_forget(target, o.base, finetuned, importance, p=P)
    check_bits(o.out, expected)
    check_mostly_equal(eager(), o.out)
    roofline = one_after_the_other(
        stream_read([importance]), stream_sum([target, o.base, finetuned, importance], torch.empty_like(o.out))
    )
    n_bytes = costs.sta_forget(target, o.base, finetuned, importance, o.out)
    contenders = (Contender("sta_forget", forget, n_bytes), roofline, Contender("eager", eager, n_bytes))
    contest("sta_forget", contenders, case(formats, 1, elements), share_of_rounds=0.5)
