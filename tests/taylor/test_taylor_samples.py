"""sk.importance: every sample has its own backward pass, however the samples come."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from taylor_models import Case, plain_importance, same_bits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sta_kernels as sk
from sta_kernels.taylor.samples import single_samples


@pytest.fixture
def case() -> Case:
    torch.manual_seed(0)
    x, y = torch.randn(7, 4), torch.randint(0, 3, (7,))
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    return Case(model, [(x[i : i + 1], y[i : i + 1]) for i in range(7)], nn.functional.cross_entropy)


def test_a_batch_gives_what_its_samples_give(case: Case) -> None:
    expected = plain_importance(case)
    x, y = (torch.cat(column) for column in zip(*case.samples, strict=True))
    data = TensorDataset(x, y)
    sources = {
        "one batch": [(x, y)],
        "a loader with an uneven last batch": DataLoader(data, batch_size=3),
        "a dataset's items": data,
        "items with plain numbers": [(a, b.item()) for a, b in data],
        "an iterator": iter(case.samples),
    }
    for source, samples in sources.items():
        found = sk.importance(case.model, samples, case.loss)
        assert same_bits(found, expected), source
        assert found.samples == 7


def test_a_batched_loss_is_something_else(case: Case) -> None:
    expected = plain_importance(case)
    x, y = (torch.cat(column) for column in zip(*case.samples, strict=True))
    with sk.TaylorImportance(case.model) as batched:
        nn.functional.cross_entropy(case.model(x), y, reduction="sum").backward()
    assert all((batched.state_dict()[name] <= expected[name] * 1.00001).all() for name in expected)
    assert any((batched.state_dict()[name] < expected[name] * 0.9).any() for name in expected)


def test_a_tokenizers_batch_is_input_and_target(language_case: Case) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = language_case.model

        def forward(self, tokens: Tensor, scale: Tensor) -> dict[str, Tensor]:
            return {"loss": language_case.loss(self.inner(tokens), tokens) * scale.mean()}

    expected = plain_importance(language_case)
    batches = [{"tokens": tokens, "scale": torch.ones(len(tokens))} for tokens, _ in language_case.samples]
    found = sk.importance(Wrapped(), batches, lambda out, batch: out["loss"])
    assert same_bits({name.removeprefix("inner."): tensor for name, tensor in found.items()}, expected)


def test_inputs_may_be_several_tensors() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([2.0]))

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.w * (a - b)

    a, b, y = torch.tensor([1.0, 5.0]), torch.tensor([4.0, 3.0]), torch.zeros(2)
    for inputs in ((a, b), {"a": a, "b": b}):
        found = sk.importance(Two(), [(inputs, y)], lambda out, target: (out - target).sum())
        assert found["w"].tolist() == [2.0 * (3 + 2)]


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (
            torch.ones(3, 4),
            r"sample 1: a pair .* not a Tensor; for instance \[\(inputs, targets\)\], or .*input_ids",
        ),
        ((1, 2, 3), "sample 1: a pair .* not a tuple of 3"),
        ((torch.ones(3, 4), torch.ones(4)), r"sample 1: .*shapes are \[\[3, 4\], \[4\]\]"),
        (("text", None), r"sample 1: .*shapes are \[\]"),
        ({"a": torch.ones(2), "b": torch.tensor(1.0)}, r"sample 1: .*shapes are \[\[2\], \[\]\]"),
    ],
)
def test_a_sample_that_cannot_be_cut_is_named(case: Case, sample: Any, message: str) -> None:
    with pytest.raises(sk.InputError, match=message):
        sk.importance(case.model, [case.samples[0], sample], case.loss)


def test_samples_are_cut_in_order() -> None:
    pairs = list(single_samples([(torch.arange(3), torch.arange(3) * 10), (torch.tensor([7]), torch.tensor([70]))]))
    assert [(x.tolist(), y.tolist()) for x, y in pairs] == [([0], [0]), ([1], [10]), ([2], [20]), ([7], [70])]


def test_what_is_missing_is_said(case: Case) -> None:
    with pytest.raises(sk.InputError, match="lp needs samples and a loss_fn"):
        sk.importance(case.model)
    with pytest.raises(sk.InputError, match="no backward pass"):
        sk.importance(case.model, [], case.loss)


def test_works_under_no_grad_and_leaves_every_setting(case: Case) -> None:
    expected = plain_importance(case)
    case.model.train()
    seen = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return case.loss(output, target)

    for strict in (False, True):
        torch.use_deterministic_algorithms(strict)
        try:
            with torch.no_grad():
                assert same_bits(sk.importance(case.model, case.samples, loss), expected)
            assert torch.are_deterministic_algorithms_enabled() == strict
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        finally:
            torch.use_deterministic_algorithms(False)
    assert all(seen)
    assert len(seen) == 14
    assert case.model.training
