"""AdaMerging: the worked example, gradients against autograd and the oracle, learning, files for recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call

import sta_kernels as sk
from sta_kernels.adamerging import task_dots
from sta_kernels.kernels.reference.literal import adamerging
from sta_kernels.methods.adamerging import Coefficients

State = dict[str, Tensor]


class Net(nn.Module):
    """Weights, a running statistic and a tied pair."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.middle = nn.Linear(8, 8, bias=False)
        self.again = nn.Linear(8, 8, bias=False)
        self.again.weight = self.middle.weight
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.again(self.middle(self.norm(self.first(x)).tanh()).tanh()))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def task_states(net: Net, n_models: int = 3, scale: float = 0.5) -> tuple[State, list[State]]:
    generator = torch.Generator().manual_seed(8)
    base = {name: value.clone() for name, value in net.state_dict().items()}
    base["again.weight"] = base["middle.weight"]
    trained = [name for name, _ in net.named_parameters()]
    models = []
    for _ in range(n_models):
        model = dict(base)
        for name in trained:
            model[name] = base[name] + scale * torch.randn(base[name].shape, generator=generator)
        models.append({**model, "again.weight": model["middle.weight"]})
    return base, models


def batches_of(n_models: int, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5 + i, 6, generator=generator) for i in range(n_models)]


def autograd_gradient(
    net: Net, base: State, models: list[State], batches: list[Tensor], lambdas: Tensor, names: list[str]
) -> tuple[float, Tensor]:
    """Objective and gradient in float64, every step by autograd."""
    lambdas = lambdas.double().requires_grad_()
    used = lambdas.clamp(0, 1)
    net = net.double().eval()
    weights = {}
    for place, name in enumerate(names):
        column = used[:, place] if used.dim() == 2 else used
        delta = sum(c * (model[name].double() - base[name].double()) for c, model in zip(column, models, strict=True))
        weights[name] = base[name].double() + delta
    loss = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        log_p = functional_call(net, weights, (batch.double(),)).log_softmax(-1)
        loss = loss - (log_p.exp() * log_p).sum(-1).mean()
    loss.backward()
    net.float()
    return loss.item(), lambdas.grad


def test_worked_example(FX: Any):
    base = {"w": torch.from_numpy(FX.base)}
    models = [{"w": torch.from_numpy(theta)} for theta in FX.finetuned]
    expected = (0.9, -2.6625, 0.625, 0.4875, 3.525, -1.05)
    merged = sk.merge(base, models, method="adamerging", coefficients=[0.3, 1.0, 0.0])
    np.testing.assert_allclose(merged["w"], expected, rtol=1e-6)
    torch.testing.assert_close(
        sk.ops.adamerging(base["w"], [m["w"] for m in models], coefficients=[0.3, 1, 0]), merged["w"]
    )


def test_worked_example_of_the_entropy():
    """Logits (1, 0) and (2, 0) of two models that do not learn."""
    net = nn.Linear(2, 2, bias=False)
    base = {"weight": torch.zeros(2, 2)}
    learner = sk.AdaMerging(net, base, [{"weight": torch.eye(2)}], init=1.0)
    assert learner.step([torch.tensor([[1.0, 0]])]) == pytest.approx(0.582203, abs=1e-6)
    learner = sk.AdaMerging(net, base, [{"weight": torch.eye(2)}], init=1.0)
    assert learner.step([torch.tensor([[1.0, 0], [2.0, 0]])]) == pytest.approx((0.582203 + 0.365334) / 2, abs=1e-6)


@pytest.mark.parametrize("layerwise", [True, False])
def test_the_gradient_is_that_of_autograd(net: Net, layerwise: bool):
    base, models = task_states(net)
    batches = batches_of(3)
    learner = sk.AdaMerging(net, base, models, layerwise=layerwise)
    names = list(learner._tensors)
    assert names == [name for name, _ in net.named_parameters()]  # the tied pair once, no running statistics
    generator = torch.Generator().manual_seed(4)
    start = torch.rand(learner.coefficients.shape, generator=generator)
    with torch.no_grad():
        learner._raw.copy_(start)
    loss, gradient = autograd_gradient(net, base, models, batches, start, names)
    assert learner.step(batches) == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(learner._raw.grad.double(), gradient, rtol=1e-4, atol=1e-6)


def test_there_is_no_gradient_beyond_the_bounds(net: Net):
    base, models = task_states(net, 2)
    learner = sk.AdaMerging(net, base, models, layerwise=False)
    with torch.no_grad():
        learner._raw.copy_(torch.tensor([1.5, 0.5]))
    learner.step(batches_of(2))
    assert learner._raw[0] == 1.5
    assert learner._raw[1] != 0.5
    assert learner.coefficients[0] == 1
    free = sk.AdaMerging(net, base, models, layerwise=False, init=1.5, clamp=False)
    free.step(batches_of(2))
    assert (free.coefficients > 1).all()
    assert (free._raw != 1.5).all()


def test_dots_of_large_tensors_agree_with_the_oracle():
    generator = torch.Generator().manual_seed(6)
    base, gradient = (torch.randn(300, 401, generator=generator) for _ in range(2))
    models = [base + 0.01 * torch.randn(300, 401, generator=generator) for _ in range(3)]
    literal = adamerging.gradient_literal(
        [base.numpy()], [torch.stack(models).numpy()], np.ones((3, 1)), [gradient.numpy()]
    )
    found = task_dots([(gradient, base, models), (None, base[:1], [m[:1] for m in models])])
    np.testing.assert_allclose(found[0], literal[:, 0], rtol=1e-5)
    assert found[1] == [0, 0, 0]
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert task_dots([(gradient, base, models)]) == found[:1]
    finally:
        torch.set_num_threads(threads)


def test_learning_makes_predictions_certain(net: Net):
    base, models = task_states(net, 2, scale=0.3)
    learner = sk.AdaMerging(net, base, models, lr=0.05)
    data = [[batch, batch * 0.9] for batch in batches_of(2)]
    losses = learner.learn(data, steps=30)
    assert len(losses) == 30
    assert losses[-2] < losses[0] - 0.02
    assert losses[-1] < losses[1] - 0.02


def test_the_model_is_left_as_it_was_found(net: Net):
    base, models = task_states(net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    net.norm.eval()
    sk.AdaMerging(net, base, models).step(batches_of(3))
    assert net.training
    assert not net.norm.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(param.grad is None for param in net.parameters())


def test_heads_and_kinds_of_batches(net: Net):
    base, models = task_states(net, 2)
    x, y = batches_of(2)
    heads = [lambda out: out[:, :2], lambda out: out[:, 1:]]
    whole = sk.AdaMerging(net, base, models, heads=heads)
    assert whole.step([(x,), {"x": y}]) < 2 * np.log(3)
    first = sk.AdaMerging(net, base, models, heads=heads).step([x, y])
    assert first == sk.AdaMerging(net, base, models, heads=heads).step([(x,), {"x": y}])


@pytest.mark.parametrize("layerwise", [True, False])
def test_a_saved_file_merges_to_the_same_bits(net: Net, tmp_path: Path, layerwise: bool):
    base, models = task_states(net)
    learner = sk.AdaMerging(net, base, models, layerwise=layerwise, lr=0.1)
    learner.step(batches_of(3))
    path = learner.save(tmp_path / "coefficients.json")
    merged = learner.merged()
    combined = learner._combined()
    assert all(torch.equal(merged[name], value) for name, value in combined.items())
    folders = [tmp_path / name for name in ("base", "m0", "m1", "m2")]
    for folder, tensors in zip(folders, (base, *models), strict=True):
        folder.mkdir()
        save_file(
            {name: value for name, value in tensors.items() if name != "again.weight"}, folder / "model.safetensors"
        )
    recipe = {
        "merge_method": "adamerging",
        "base_model": str(folders[0]),
        "models": [{"model": str(folder)} for folder in folders[1:]],
        "parameters": {"coefficients": str(path)},
    }
    sk.merge_checkpoints(recipe, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(written[name], merged[name]) for name in written)
    plans = [sk.merge_checkpoints(recipe, tmp_path / "other", dry_run=True) for _ in range(2)]
    learner.step(batches_of(3))
    learner.save(path)
    plans.append(sk.merge_checkpoints(recipe, tmp_path / "other", dry_run=True))
    identities = [plan.identity for plan in plans if isinstance(plan, sk.Plan)]
    assert identities[0] == identities[1] != identities[2]


def test_refusals(net: Net, tmp_path: Path, FX: Any):
    base, models = task_states(net, 2)
    with pytest.raises(sk.InputError, match="batches: 1 given for 2 models"):
        sk.AdaMerging(net, base, models).step(batches_of(1))
    with pytest.raises(sk.InputError, match="heads: 1 given for 2 models"):
        sk.AdaMerging(net, base, models, heads=[nn.Identity()])
    with pytest.raises(sk.InputError, match="at least one model"):
        sk.AdaMerging(net, base, [])
    with pytest.raises(sk.InputError, match="'other' is no parameter or buffer of the model"):
        sk.AdaMerging(net, {**base, "other": torch.ones(2)}, [{**m, "other": torch.ones(2)} for m in models])
    with pytest.raises(sk.InputError, match=r"batches\[0\]: the entropy of the predictions is nan"):
        sk.AdaMerging(net, base, models).step([batches_of(1)[0] * torch.nan, batches_of(2)[1]])
    with pytest.raises(sk.InputError, match=r"data\[1\]: no batch"):
        sk.AdaMerging(net, base, models).learn([[batches_of(1)[0]], []])
    small, others = {"w": torch.from_numpy(FX.base)}, [{"w": torch.from_numpy(theta)} for theta in FX.finetuned]
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text(json.dumps({"shared": [1]}))
    for given, message in (
        ([0.3, 0.3], "2 per tensor for 3 models"),
        ({"v": [1, 1, 1]}, "none for 'w'; exclude it"),
        ({"w": [1, 1, 1], "v": [1, 1, 1]}, "the result has no tensor 'v'; were"),
        ({"w": [1, 1, 1], **{f"v{i}": [1, 1, 1] for i in range(6)}}, "'v0', 'v1', 'v2', 'v3' and 2 more"),
        ({"v": [1, 1, 1], "w": [1]}, "one coefficient per model, as many for every tensor"),
        ([], "one coefficient per model"),
        ({"w": 0.3}, "'w': expected one coefficient per model, got 0.3"),
        ({"w": "123"}, "'w': expected one coefficient per model, got '123'"),
        (3, "expected the path of a file"),
        (str(tmp_path / "absent.json"), "cannot be read"),
        (str(tmp_path / "broken.json"), "no file of coefficients"),
        (str(tmp_path / "other.json"), "no file of coefficients of format 1"),
    ):
        with pytest.raises(sk.InputError, match=message):
            sk.merge(small, others, method="adamerging", coefficients=given)


def test_a_table_reads_back_as_itself(tmp_path: Path):
    from sta_kernels.methods.adamerging import coefficients

    table = Coefficients.of((0.1, 1 / 3), {"w": (0.2, 0.7)})
    (tmp_path / "table.json").write_text(table.to_json())
    again = coefficients(tmp_path / "table.json")
    assert (again, again.shared, again.tensors) == (table, table.shared, table.tensors)
    assert table.row("w") == (0.2, 0.7)
    assert table.row("v") == (0.1, 1 / 3)


def test_coefficients_of_tensors_that_a_recipe_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A name counts as known where a tensor is copied, or has the values of another file."""
    monkeypatch.chdir(tmp_path)
    for name in ("base", "m0"):
        save_file(
            {"w": torch.ones(2), "v": torch.ones(2), "steps": torch.ones(1, dtype=torch.int64)}, f"{name}.safetensors"
        )
    for name, tensors in (
        ("known", {"w": (1.0,), "v": (0.5,), "steps": (1.0,)}),
        ("other", {"w": (1.0,), "u": (1.0,)}),
    ):
        Path(f"{name}.json").write_text(Coefficients.of(tensors=tensors).to_json())
    by_filter = [{"filter": "v", "value": "known.json"}, {"value": "other.json"}]
    recipe: dict[str, Any] = {
        "merge_method": "adamerging", "base_model": "base.safetensors", "models": [{"model": "m0.safetensors"}],
    }  # fmt: skip
    for given, exclude in (("known.json", []), ("known.json", ["v"])):
        sk.merge_checkpoints({**recipe, "parameters": {"coefficients": given}, "exclude": exclude}, "out", dry_run=True)
    with pytest.raises(sk.InputError, match="the result has no tensor 'u'"):
        sk.merge_checkpoints({**recipe, "parameters": {"coefficients": by_filter}}, "out", dry_run=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_worked_example_with_what_ties_selects(FX: Any, dtype: torch.dtype):
    """Eighths of the task vectors that are left, a third of the model kept: the signs are +, −, 0, +, + (most), +."""
    base = {"v": torch.from_numpy(FX.base[:2]).to(dtype), "w": torch.from_numpy(FX.base[2:]).to(dtype)}
    models = [{"v": torch.from_numpy(t[:2]).to(dtype), "w": torch.from_numpy(t[2:]).to(dtype)} for t in FX.finetuned]
    selected = sk.ties_selected(base, models, density=0.34)
    left = torch.tensor([[4.0, 0, 0, 3, 0, 0], [0, -5, 0, 3, 6, 0], [0, 0, 0, 0, 0, 4]]) / 8
    for model, rest in zip(selected, left, strict=True):
        assert torch.equal(torch.cat([model["v"], model["w"]]), (torch.from_numpy(FX.base) + rest).to(dtype))
    merged = sk.merge(base, selected, method="adamerging", coefficients=[0.3, 1.0, 0.0], out_dtype=torch.float32)
    expected = torch.from_numpy(FX.base) + 0.3 * left[0] + left[1]
    torch.testing.assert_close(torch.cat([merged["v"], merged["w"]]), expected)


def test_what_is_selected_has_the_bits_of_model_or_base(net: Net):
    """In large and small changes alike, as many as are asked for, and tied where the base ties."""
    base, models = task_states(net, 3, scale=1e-6)
    models = [{name: value.to(torch.float32) for name, value in model.items()} for model in models]
    for model in models:
        model["again.weight"] = model["middle.weight"]
    wrapped = {f"module.{name}": value for name, value in base.items()}
    selected = sk.ties_selected(wrapped, models, density=0.25, scope="tensor", exclude=["last.*"])
    names = ["first.weight", "middle.weight"]
    for name in names:
        deltas = torch.stack([model[name] - base[name] for model in models])
        kept = torch.zeros_like(deltas)
        for delta, rest in zip(deltas, kept, strict=True):
            order = delta.abs().flatten().argsort(descending=True, stable=True)[: delta.numel() // 4]
            rest.view(-1)[order] = delta.flatten()[order]
        sign = kept.sum(0).sign()
        for model, given, rest in zip(selected, models, kept, strict=True):
            chosen = (rest != 0) & (rest.sign() == sign)
            assert chosen.any()
            assert torch.equal(model[f"module.{name}"], torch.where(chosen, given[name], base[name]))
    for model in selected:
        assert model.keys() == wrapped.keys()
        assert model["module.again.weight"] is model["module.middle.weight"]
        assert torch.equal(model["module.last.weight"], base["last.weight"])
    sk.AdaMerging(net, base, sk.ties_selected(base, models)).step(batches_of(3))
