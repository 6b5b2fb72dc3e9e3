"""State dicts, checkpoints and importances on a device against the reference; on a GPU and in the interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from device_operands import many, on_cpu, reference, same
from safetensors.torch import save_file
from torch import Tensor, nn

import sta_kernels as sk
from sta_kernels.kernels import interpreted

SHAPES = {"first.weight": (12, 10), "first.bias": (12,), "second.weight": (9, 21), "scale": (), "empty": (0, 3)}
SHAPES["large"] = (many(),)
METHODS: dict[str, dict[str, Any]] = {
    "sta": {"p": 0.5},
    "sta, mean, ties": {"normalise": "mean", "ties": "first", "lambda_": 0.7},
    "task_arithmetic": {"lambda_": 0.4},
    "linear": {},
}


def state_dicts(device: torch.device) -> tuple[Any, Any, Any]:
    """Base, models and importances."""
    generator = torch.Generator().manual_seed(5)

    def entries(scale: float) -> dict[str, Tensor]:
        return {name: torch.randn(shape, generator=generator) * scale for name, shape in SHAPES.items()}

    base = entries(0.5)
    models = [{name: (base[name] + each).bfloat16() for name, each in entries(0.1).items()} for _ in range(3)]
    scores = [{name: (each.abs() * 4).round() / 4 for name, each in entries(1.0).items()} for _ in range(3)]

    for each in scores:  # positive: whole blocks on the fast path
        each["large"] = torch.randn(SHAPES["large"], generator=generator).exp()
        each["large"][-1] = 2.0**-10  # what is least becomes 0, in the tail

    def there(entries: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: each.to(device) for name, each in entries.items()}

    return there({name: each.bfloat16() for name, each in base.items()}), [*map(there, models)], [*map(there, scores)]


def copies(value: Any) -> Any:
    """State dicts in main memory."""
    if isinstance(value, list):
        return [copies(each) for each in value]
    return {name: on_cpu(each) for name, each in value.items()}


@pytest.mark.parametrize("case", METHODS)
def test_merging_state_dicts(device: torch.device, case: str):
    base, models, scores = state_dicts(device)
    if interpreted() and case != "sta":  # whose paths have been tested, and take long
        for each in (base, *models, *scores):
            del each["large"]
    method = case.split(",")[0]
    stored = scores if method == "sta" else None
    merged = sk.merge(base, models, method=method, importances=stored, **METHODS[case])
    with reference():
        expected = sk.merge(
            copies(base), copies(models), method=method, importances=stored and copies(stored), **METHODS[case]
        )
    assert list(merged) == list(expected)
    for name, each in merged.items():
        assert each.device == device
        same(each, expected[name])


def test_forgetting_in_state_dicts(device: torch.device):
    base, (model, target, _), (score, *_) = state_dicts(device)
    forgotten = sk.forget(target, base, model, score, p=0.6)
    with reference():
        expected = sk.forget(*map(copies, (target, base, model, score)), p=0.6)
    for name, each in forgotten.items():
        assert each.device == device
        same(each, expected[name])


def test_a_bad_importance_is_named(device: torch.device):
    base, models, scores = state_dicts(device)
    scores[1]["second.weight"][3, 4] = torch.nan
    with pytest.raises(sk.InputError, match=r"second\.weight"):
        sk.merge(base, models, importances=scores)


@pytest.mark.parametrize("method", ["sta", "task_arithmetic"])
def test_checkpoints_merge_to_the_same_files(device: torch.device, tmp_path: Path, method: str):
    base, models, scores = map(copies, state_dicts(torch.device("cpu")))
    recipe: dict[str, Any] = {"merge_method": method, "base_model": str(tmp_path / "base"), "models": []}
    for name, entries in {"base": base, **{f"model{i}": each for i, each in enumerate(models)}}.items():
        (tmp_path / name).mkdir()
        save_file(entries, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    for i, entries in enumerate(scores):
        save_file(entries, tmp_path / f"model{i}" / "importance.safetensors", metadata={"format": "pt"})
        model: dict[str, Any] = {"model": str(tmp_path / f"model{i}")}
        if method == "sta":
            model["parameters"] = {"importance": f"{model['model']}/importance.safetensors"}
        recipe["models"].append(model)
    there = "interpret" if device.type == "cpu" else str(device)
    manifest = sk.merge_checkpoints(recipe, tmp_path / "there", device=there, threads=2)
    expected = sk.merge_checkpoints(recipe, tmp_path / "here", device="cpu")
    assert manifest.served_by["backend"] == "triton"
    assert manifest.files == expected.files
    assert manifest.tensors == expected.tensors


class Net(nn.Module):
    """Two layers and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(10, 12), nn.LayerNorm(12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(torch.relu(self.first(x))))


@pytest.mark.parametrize("autocast", [torch.bfloat16, None], ids=str)
@pytest.mark.parametrize("measure", ["lp", "lp_amp"])
def test_taylor_importance(device: torch.device, measure: str, autocast: torch.dtype | None):
    """The gradients are the device's own; what becomes of them must be the reference's bits."""
    torch.manual_seed(0)
    model = Net().to(device)
    if autocast is None:
        model = model.bfloat16()
    inputs = torch.randn(4, 1, 10).to(device, next(model.parameters()).dtype)
    seen: dict[str, list[Tensor]] = {name: [] for name, _ in model.named_parameters()}
    for name, param in model.named_parameters():
        param.register_hook(lambda grad, name=name: seen[name].append(on_cpu(grad)))
    with sk.TaylorImportance(model, measure) as importance:
        for each in inputs:
            with torch.autocast(device.type, autocast or torch.bfloat16, enabled=autocast is not None):
                loss = model(each).float().square().sum()
            loss.backward()
    result = importance.state_dict()
    assert importance.samples == 4
    for name, param in model.named_parameters():
        total = torch.zeros(param.shape)
        with reference():
            for grad in seen[name]:
                sk.ops.taylor_accumulate_(total, grad)
            expected, _ = sk.ops.taylor_finish(total, on_cpu(param), measure=measure)
        assert result[name].device == device
        same(result[name], expected)
