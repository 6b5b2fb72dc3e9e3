"""Fisher information and mean gradients: the true values on small models, against gradients taken one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from taylor_models import Case, gradients
from torch import Tensor, nn

import sta_kernels as sk
from sta_kernels.kernels.reference.literal import fisher


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Dropout(0.5), nn.Linear(7, 4))


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


def class_gradients(model: nn.Module, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """p [samples, classes], and ∂ log p of every sample and class by parameter."""
    model.eval()
    named = dict(model.named_parameters())
    probabilities, rows = [], {name: [] for name in named}
    for x in inputs:
        log_p = model(x[None])[0].double().log_softmax(0)
        probabilities.append(log_p.detach().exp())
        by_class = [torch.autograd.grad(log_p[y], list(named.values()), retain_graph=True) for y in range(len(log_p))]
        for name, each in zip(named, zip(*by_class, strict=True), strict=True):
            rows[name].append(torch.stack(each))
    return torch.stack(probabilities), {name: torch.stack(each) for name, each in rows.items()}


def observed(model: nn.Module, inputs: Tensor, **options: object) -> sk.FisherInformation:
    with sk.FisherInformation(model, **options) as information:
        for x in inputs:
            information.observe(model(x[None]))
    return information


def test_it_is_the_true_information(model: nn.Sequential, inputs: Tensor):
    probabilities, rows = class_gradients(model, inputs)
    information = observed(model, inputs)
    assert information.samples == 6
    for name, value in information.state_dict().items():
        expected = fisher.fisher_estimate_literal(probabilities.numpy(), rows[name].numpy())
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-9, err_msg=name)


def test_drawn_classes_have_the_true_information_as_their_mean(model: nn.Sequential, inputs: Tensor):
    exact = observed(model, inputs[:2]).state_dict()
    drawn = observed(model, inputs[:2].repeat(400, 1), classes="sampled").state_dict()
    for name, value in drawn.items():
        assert (value - exact[name]).norm() < 0.1 * exact[name].norm(), name


def test_draws_go_by_the_seed(model: nn.Sequential, inputs: Tensor):
    first, second, other = (observed(model, inputs, classes="sampled", seed=seed).state_dict() for seed in (4, 4, 5))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_sequence_has_a_draw_at_every_position(language_case: Case):
    with sk.FisherInformation(language_case.model, classes="sampled") as information:
        for tokens, _ in language_case.samples:
            information.observe(language_case.model(tokens))
    assert information.samples == 4
    assert all((value >= 0).all() for value in information.state_dict().values())
    assert information.state_dict()["embed.weight"].count_nonzero()


def test_a_backward_pass_of_ones_own_chooses_the_class(case: Case):
    rows = gradients(case)
    with sk.FisherInformation(case.model) as information:
        for inputs, target in case.samples:
            case.loss(case.model(inputs), target).backward()
    assert information.samples == len(rows)
    for name, value in information.state_dict().items():
        expected = torch.stack([row[name].double() ** 2 for row in rows]).mean(0)
        torch.testing.assert_close(value, expected.float(), rtol=1e-5, atol=1e-12)


def test_the_model_is_left_as_it_was_found(model: nn.Sequential, inputs: Tensor):
    model.train()
    marks = [torch.ones_like(param) for param in model.parameters()]
    for param, mark in zip(model.parameters(), marks, strict=True):
        param.grad = mark
    observed(model, inputs)
    assert model.training
    assert all(param.grad is mark for param, mark in zip(model.parameters(), marks, strict=True))
    assert not any(param._post_accumulate_grad_hooks for param in model.parameters())


def test_merging_by_a_saved_file(model: nn.Sequential, inputs: Tensor, tmp_path: Path):
    information = observed(model, inputs)
    path = information.save(tmp_path / "fisher.safetensors")
    other = {name: value + 1 for name, value in model.state_dict().items()}
    merged = sk.merge(
        None, [model.state_dict(), other], method="fisher", importances=[load_file(path), information.state_dict()]
    )
    torch.testing.assert_close(merged["0.weight"], model.state_dict()["0.weight"] + 0.5)


def test_refusals(model: nn.Sequential, inputs: Tensor):
    information = sk.FisherInformation(model)
    with pytest.raises(sk.InputError, match="inside the with block only"):
        information.observe(model(inputs[:1]))
    with information:
        with pytest.raises(sk.InputError, match=r"logits of one sample at a time are expected, .* not \[6, 4\]"):
            information.observe(model(inputs))
        with pytest.raises(sk.InputError, match=r'several predictions.*classes="sampled"'):
            information.observe(model(inputs)[None])
    with pytest.raises(sk.InputError, match="no backward pass reached"):
        information.state_dict()
    with pytest.raises(sk.InputError, match="classes: expected all or sampled, got 'one'"):
        sk.FisherInformation(model, classes="one")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mean_gradients(case: Case, dtype: torch.dtype):
    rows = gradients(case)
    with sk.TaylorImportance(case.model, "gradient", dtype=dtype) as importance:
        for inputs, target in case.samples:
            case.loss(case.model(inputs), target).backward()
    for name, value in importance.state_dict().items():
        assert value.dtype == dtype
        total = torch.zeros_like(value)
        for row in rows:
            total = (total.float() + row[name].float().abs()).to(dtype)
        assert torch.equal(value, (total.float() / len(rows)).to(dtype)), name
        summary = importance.result.statistics[name]
        assert (summary.min, summary.max) == (value.min().item(), value.max().item())


def test_tatr_takes_mean_gradients_from_a_file(model: nn.Sequential, inputs: Tensor, tmp_path: Path):
    base = {name: value.clone() for name, value in model.state_dict().items()}
    models = [{name: value + (i + 1) / 8 for name, value in base.items()} for i in range(2)]
    targets = torch.tensor([0, 1, 2, 3, 0, 1])
    data = [(inputs, targets), (inputs.flip(0), targets)]
    means = [sk.importance(model, [each], nn.functional.cross_entropy, measure="gradient") for each in data]
    loaded = [load_file(mean.save(tmp_path / f"{i}.safetensors")) for i, mean in enumerate(means)]
    merged = sk.merge(base, models, method="tatr", importances=loaded, quantile=0.5)
    omega = {name: means[0][name] * (2 / 8) + means[1][name] * (1 / 8) for name in base}
    values = torch.cat([value.flatten() for value in omega.values()])
    threshold = values.sort().values[len(values) // 2]
    for name, value in merged.items():
        clear = (omega[name] - threshold).abs() > 1e-6
        assert torch.equal((value != base[name])[clear], (omega[name] < threshold)[clear]), name
