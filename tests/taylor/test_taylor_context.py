"""The with block: the model is left as it was found, samples are counted, and what would be wrong is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from taylor_models import Case, plain_importance, same_bits
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import sta_kernels as sk


class BoomError(Exception):
    """What a caller's loop may raise."""


def inside(importance: sk.TaylorImportance, loop: Callable[[], object]) -> None:
    with importance:
        loop()


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.BatchNorm1d(3), nn.Linear(3, 2))


def hooks_of(model: nn.Module) -> int:
    return sum(len(param._post_accumulate_grad_hooks or ()) for param in model.parameters())


def state_of(model: nn.Module) -> tuple[Any, ...]:
    """Everything that must be the same afterwards."""
    return (
        [module.training for module in model.modules()],
        [param.grad for param in model.parameters()],
        [None if param.grad is None else param.grad.clone() for param in model.parameters()],
        {name: value.clone() for name, value in model.state_dict().items()},
        hooks_of(model),
    )


def assert_as_found(model: nn.Module, before: tuple[Any, ...]) -> None:
    after = state_of(model)
    assert after[0] == before[0]
    assert all(now is then for now, then in zip(after[1], before[1], strict=True))
    assert all(now is then or torch.equal(now, then) for now, then in zip(after[2], before[2], strict=True))
    assert all(torch.equal(after[3][name], before[3][name]) for name in before[3])
    assert after[4] == before[4]


@pytest.mark.parametrize("ending", [None, BoomError, sk.InputError])
def test_the_model_is_left_as_it_was_found(model: nn.Sequential, ending: type[Exception] | None) -> None:
    model.train()
    model[2].eval()  # a mixture of modes
    model[0].weight.grad = torch.full((3, 4), 7.0)
    before = state_of(model)
    importance = sk.TaylorImportance(model)

    def loop() -> None:
        assert not any(module.training for module in model.modules())
        assert hooks_of(model) == 6
        for _ in range(3):
            model(torch.randn(1, 4)).sum().backward()
            assert all(param.grad is None for param in model.parameters()), "freed at once"
        model[3].train()
        if ending is BoomError:
            raise BoomError
        if ending is sk.InputError:
            with torch.no_grad():
                model[3].bias += 0  # any write in place

    if ending is None:
        inside(importance, loop)
        assert set(importance.state_dict()) == {name for name, _ in model.named_parameters()}
    else:
        with pytest.raises(ending, match=r"3\.bias changed" if ending is sk.InputError else None):
            inside(importance, loop)
        with pytest.raises(sk.InputError, match="without an exception"):
            importance.state_dict()
    assert_as_found(model, before)


def test_an_earlier_gradient_takes_no_part(model: nn.Sequential) -> None:
    case = Case(model, [(torch.randn(1, 4), torch.tensor([1]))], nn.functional.cross_entropy)
    expected = plain_importance(case)
    for param in model.parameters():
        param.grad = torch.full_like(param, 1e6)
    with sk.TaylorImportance(model) as importance:
        for inputs, target in case.samples:
            case.loss(model(inputs), target).backward()
    assert same_bits(importance.state_dict(), expected)


def test_a_sample_is_a_backward_pass_whichever_parameters_it_reaches() -> None:
    experts = nn.ModuleList(nn.Linear(2, 1, bias=False) for _ in range(3))
    shared = torch.ones(1, 2, requires_grad=True)
    with sk.TaylorImportance(experts) as importance:
        for index in (0, 1, 0, 0):
            experts[index](shared).sum().backward()
        shared.sum().backward()  # reaches no trainable parameter of the model
        torch.autograd.grad(experts[1](shared).sum(), experts[1].weight)
        assert importance.samples == 4
    found = importance.state_dict()
    assert importance.samples == 4
    for name, times in (("0.weight", 3), ("1.weight", 1), ("2.weight", 0)):
        assert torch.equal(found[name], experts.get_parameter(name).detach().abs() * times)


def test_every_run_starts_anew(model: nn.Sequential) -> None:
    importance = sk.TaylorImportance(model)
    runs = []
    for _ in range(2):
        with importance:
            model(torch.ones(1, 4)).sum().backward()
        runs.append(importance.state_dict())
        assert importance.samples == 1
    assert same_bits(runs[0], runs[1])


class Checkpointed(nn.Module):
    """One linear layer, used in two checkpointed segments, or each of two in one."""

    def __init__(self, reentrant: bool, shared: bool) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = self.first if shared else nn.Linear(3, 3)
        self.head = nn.Linear(3, 1)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = x.requires_grad_()
        for layer in (self.first, self.second):
            x = checkpoint(layer, x, use_reentrant=self.reentrant).tanh()
        return self.head(x) if self.training else x


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("head", [False, True])
def test_reentrant_checkpointing_is_refused(shared: bool, head: bool) -> None:
    model = Checkpointed(True, shared)

    def loop() -> None:
        model.train(head)
        for _ in range(2):
            model(torch.randn(1, 3)).sum().backward()

    with pytest.raises(sk.InputError, match="use_reentrant=False"):
        inside(sk.TaylorImportance(model), loop)
    assert hooks_of(model) == 0


def test_a_refusal_that_the_loop_swallows_stands() -> None:
    model = Checkpointed(True, True)

    def loop() -> None:
        for _ in range(2):
            with pytest.raises(sk.InputError):
                model(torch.randn(1, 3)).sum().backward()

    with pytest.raises(sk.InputError, match="use_reentrant=False"):
        inside(sk.TaylorImportance(model), loop)


@pytest.mark.parametrize("shared", [False, True])
def test_other_checkpointing_is_exact(shared: bool) -> None:
    model = Checkpointed(False, shared)
    case = Case(model, [(torch.randn(1, 3), torch.randn(1, 3)) for _ in range(3)], nn.functional.mse_loss)
    expected = plain_importance(case)
    assert same_bits(sk.importance(model, case.samples, case.loss), expected)


class FailsInBackward(torch.autograd.Function):
    """Identity whose backward raises."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        raise BoomError


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_pass_that_failed_half_way_cannot_be_swallowed(model: nn.Sequential, goes_on: bool) -> None:
    x = torch.ones(1, 4)

    def loop() -> None:
        model(x).sum().backward()
        with pytest.raises(BoomError):  # the last layer's gradients are in by then
            model[3](FailsInBackward.apply(model[:3](x))).sum().backward()
        if goes_on:
            model(x).sum().backward()

    with pytest.raises(sk.InputError, match="failed half-way"):
        inside(sk.TaylorImportance(model), loop)


def test_two_at_once_are_refused(model: nn.Sequential) -> None:
    def loop() -> None:
        model(torch.ones(1, 4)).sum().backward()

    with pytest.raises(sk.InputError, match="another hook took the gradient of 3"):
        inside(sk.TaylorImportance(model), lambda: inside(sk.TaylorImportance(model), loop))
    assert hooks_of(model) == 0
    importance = sk.TaylorImportance(model)
    with pytest.raises(sk.InputError, match="already in use"):
        inside(importance, lambda: inside(importance, loop))


def test_nothing_is_returned_before_there_is_something(model: nn.Sequential, tmp_path: Any) -> None:
    importance = sk.TaylorImportance(model)
    with importance:
        model(torch.ones(1, 4)).sum().backward()
        assert importance.samples == 1
        with pytest.raises(sk.InputError, match="before the with block"):
            importance.state_dict()
    with importance:
        pass
    with pytest.raises(sk.InputError, match="no backward pass reached"):
        importance.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_measured_is_refused(model: nn.Sequential) -> None:
    for arguments, message in (
        ({"measure": "fisher"}, "unknown measure 'fisher'; known: lp, amp, lp_amp"),
        ({"dtype": torch.float16}, "float32 or bfloat16, not torch.float16"),
    ):
        with pytest.raises(sk.InputError, match=message):
            sk.TaylorImportance(model, **arguments)
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got a str"):
        sk.TaylorImportance("x")  # type: ignore[arg-type]
    for refused, message in (
        (nn.Linear(2, 2).requires_grad_(False), "no trainable parameter"),
        (nn.Linear(2, 2, dtype=torch.complex64), "parameter weight: no kernel reads torch.complex64"),
        (nn.Linear(2, 2, device="meta"), "parameter weight is on the meta device"),
    ):
        with pytest.raises(sk.InputError, match=message), sk.TaylorImportance(refused):
            pass


def test_an_importance_that_overflowed_is_said_to_be_useless() -> None:
    model = nn.Linear(2, 1)
    importance = sk.TaylorImportance(model)
    with pytest.warns(RuntimeWarning, match=r"importance of weight holds NaN or infinity \(1 of 2") as caught:
        inside(importance, lambda: (model.weight.sum() * float("inf") + model.bias.sum()).backward())
    assert not caught[0].filename.startswith(str(Path(sk.__file__).parent))
    assert torch.isinf(importance.state_dict()["weight"]).all()


def test_a_module_that_changes_its_weights_with_its_mode() -> None:
    class Merged(nn.Linear):
        """As low-rank adapters do: in eval mode the adapter is inside the weight."""

        def train(self, mode: bool = True) -> nn.Module:
            if mode != self.training:
                self.weight.data += -2.0 if mode else 2.0
            return super().train(mode)

    model = nn.Sequential(Merged(2, 1, bias=False))
    nn.init.constant_(model[0].weight, 1.0)
    importance = sk.importance(model, [(torch.ones(1, 2), torch.zeros(1))], lambda y, target: y.sum())
    assert importance["0.weight"].tolist() == [[3.0, 3.0]]
    assert model[0].weight.tolist() == [[1.0, 1.0]]
    assert model.training
