"""Gram matrices: what hooks see, what they cannot see, and RegMean on the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import sta_kernels as sk


class Attention(nn.Module):
    """What calls its projections, beside what does not."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(6, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.after = nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x)
        return self.after(self.attention(h, h, h)[0])


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 3))


def test_of_all_rows_of_all_batches(model: nn.Sequential):
    batches = [torch.randn(4, 7, 5), torch.randn(2, 5)]
    model.train()
    with sk.GramMatrices(model) as grams, torch.no_grad():
        for batch in batches:
            model(batch)
    assert model.training
    rows = torch.cat([batch.reshape(-1, 5) for batch in batches]).double()
    torch.testing.assert_close(grams.state_dict()["0.weight"].double(), rows.T @ rows / 30, rtol=1e-6, atol=1e-6)
    hidden = (rows @ model[0].weight.double().T + model[0].bias.double()).relu()
    torch.testing.assert_close(grams.state_dict()["3.weight"].double(), hidden.T @ hidden / 30, rtol=1e-5, atol=1e-6)
    assert grams.result.samples == 30
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes(model: nn.Sequential, dtype: torch.dtype):
    model.bfloat16()
    x = torch.randn(50, 5).bfloat16()
    with sk.GramMatrices(model, dtype=dtype) as grams:
        model(x)
    value = grams.state_dict()["0.weight"]
    assert value.dtype == dtype
    torch.testing.assert_close(value.double(), x.double().T @ x.double() / 50, rtol=1e-6, atol=1e-6)


def test_an_input_by_keyword(model: nn.Sequential):
    with pytest.warns(UserWarning, match=r"no input reached 3\.weight"), sk.GramMatrices(model) as grams:
        model[0](input=torch.ones(2, 5))
    assert torch.equal(grams.state_dict()["0.weight"], torch.ones(5, 5))


def test_what_no_hook_sees_is_said():
    model = Attention()
    x = torch.randn(2, 5, 6)
    with (
        pytest.warns(UserWarning, match="no input reached attention.out_proj.weight: .*MultiheadAttention"),
        sk.GramMatrices(model) as grams,
    ):
        model(x)
    assert list(grams.state_dict()) == ["before.weight", "after.weight"]


def test_layers_that_share_a_weight_share_their_inputs(model: nn.Sequential):
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    x, y = torch.randn(4, 3), torch.randn(6, 3)
    with sk.GramMatrices(nn.ModuleList([first, second])) as grams:
        first(x)
        second(y)
    rows = torch.cat((x, y))
    found = grams.state_dict()
    assert found["0.weight"] is found["1.weight"]
    torch.testing.assert_close(found["0.weight"], rows.T @ rows / 10)


def test_regmean_on_the_file(model: nn.Sequential, tmp_path: Path):
    from safetensors.torch import save_file

    inputs = [torch.randn(40, 5), torch.randn(40, 5) * torch.tensor([1.0, 0.1, 3, 1, 1])]
    tasks, entries = [], []
    for i, x in enumerate(inputs):
        torch.manual_seed(i)
        task = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
        with sk.GramMatrices(task) as grams:
            task(x)
        folder = tmp_path / f"model{i}"
        folder.mkdir()
        save_file(task.state_dict(), folder / "model.safetensors")
        importance = grams.save(folder / "gram.safetensors")
        tasks.append((task.state_dict(), grams.state_dict()))
        entries.append({"model": str(folder), "parameters": {"importance": str(importance)}})
    sk.merge_checkpoints({"merge_method": "regmean", "models": entries}, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    in_memory = sk.merge(None, [t for t, _ in tasks], method="regmean", importances=[g for _, g in tasks])
    assert all(torch.equal(written[name], in_memory[name]) for name in in_memory)
    answers = torch.cat([x @ task["0.weight"].T for x, (task, _) in zip(inputs, tasks, strict=True)])
    expected = torch.linalg.lstsq(torch.cat(inputs).double(), answers.double()).solution.T
    torch.testing.assert_close(written["0.weight"].double(), expected, rtol=1e-4, atol=1e-5)


def test_sta_does_not_take_the_file(model: nn.Sequential, tmp_path: Path):
    from safetensors.torch import save_file

    square = nn.Linear(3, 3, bias=False)
    with sk.GramMatrices(square) as grams:
        square(torch.randn(4, 3))
    for name in ("base", "model"):
        save_file(square.state_dict(), tmp_path / f"{name}.safetensors")
    entry = {"model": str(tmp_path / "model.safetensors"), "parameters": {"importance": str(grams.save(tmp_path))}}
    recipe = {
        "merge_method": "sta",
        "base_model": str(tmp_path / "base.safetensors"),
        "models": [entry],
        "parameters": {"keep": 1},
    }
    with pytest.raises(sk.InputError, match="holds gram, and sta takes lp or amp"):
        sk.merge_checkpoints(recipe, tmp_path / "out")


def test_refusals(model: nn.Sequential):
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module"):
        sk.GramMatrices("model")  # type: ignore[arg-type]
    with pytest.raises(sk.InputError, match="float32 or float64"):
        sk.GramMatrices(model, dtype=torch.float16)
    with pytest.raises(sk.InputError, match=r"no torch\.nn\.Linear"), sk.GramMatrices(nn.ReLU()):
        pass
    grams = sk.GramMatrices(model)
    with pytest.raises(sk.InputError, match="before the with block has been left"):
        grams.state_dict()
    with grams, pytest.raises(sk.InputError, match="already in use"):
        grams.__enter__()
    with pytest.raises(sk.InputError, match="no input reached a linear layer"):
        grams.state_dict()
