"""Small gradients wait for each other, within a bound and until the end of their pass."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import sta_kernels as sk
from sta_kernels.taylor import pending
from sta_kernels.taylor.pending import BOUND, SMALL, PendingGradients


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Parameters per call of ``accumulate``, in order."""
    sizes: list[int] = []
    accumulate = pending.accumulate

    def counted(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        sizes.append(len(pairs))
        accumulate(pairs)

    monkeypatch.setattr(pending, "accumulate", counted)
    return sizes


def test_small_gradients_of_a_pass_are_added_together_and_large_ones_at_once(launches: list[int]) -> None:
    side = 260  # 264 KiB
    model = nn.Sequential(*[nn.Linear(side, side) for _ in range(5)])
    with sk.TaylorImportance(model) as importance:
        for _ in range(2):
            model(torch.ones(1, side)).sum().backward()
    assert side * side * 4 > SMALL
    assert launches == 2 * [1, 1, 1, 1, 1, 5]
    assert importance.samples == 2
    assert all(values.any() for values in importance.state_dict().values())


def test_what_waits_is_bounded(launches: list[int]) -> None:
    queue = PendingGradients()
    totals = [torch.zeros(SMALL // 4) for _ in range(40)]
    for total in totals:
        queue.add(total, torch.full_like(total, -2.0))
    assert launches == [BOUND // SMALL + 1] * 2
    assert [bool(total.any()) for total in totals] == [True] * 34 + [False] * 6
    queue.flush()
    queue.flush()
    assert launches == [17, 17, 6]
    assert all((total == 2).all() for total in totals)


def test_a_view_that_keeps_much_memory_alive_does_not_wait(launches: list[int]) -> None:
    queue = PendingGradients()
    queue.add(torch.zeros(8), torch.ones(SMALL)[:8])
    assert launches == [1]


def test_a_gradient_that_waits_is_out_of_reach(launches: list[int]) -> None:
    """Whoever keeps a gradient and changes it has another tensor than the one that is added up later."""
    model = nn.Linear(3, 2, bias=False)
    seen: list[Tensor] = []
    model.weight.register_hook(seen.append)

    class Spoil(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            assert model.weight.grad is None
            assert launches == [], "taken, and not yet added"
            seen[-1].mul_(1000)
            return grad

    x = torch.ones(1, 3, requires_grad=True)
    with sk.TaylorImportance(model) as importance:
        model(Spoil.apply(x)).sum().backward()
    assert launches == [1]
    assert torch.equal(importance.state_dict()["weight"], model.weight.detach().abs())


def test_what_waited_when_a_pass_failed_is_not_added_to_the_next_run(launches: list[int]) -> None:
    model = nn.Linear(3, 2, bias=False)

    class Fail(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            raise ArithmeticError

    importance = sk.TaylorImportance(model)
    x = torch.ones(1, 3, requires_grad=True)
    with pytest.raises(ArithmeticError), importance:
        model(Fail.apply(x)).sum().backward()
    with importance:
        model(x).sum().backward()
    assert launches == [1]
    assert torch.equal(importance.state_dict()["weight"], model.weight.detach().abs())
