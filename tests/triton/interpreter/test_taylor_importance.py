"""TaylorImportance through Triton's kernels: the bits of the native core, one launch for a pass's small gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sta_kernels as sk
from sta_kernels.kernels import ENVIRONMENT_VARIABLE
from sta_kernels.kernels.triton import backend, calls, taylor
from sta_kernels.taylor import hooks


class Model(nn.Module):
    """A tied weight, a convolution in another memory order, an embedding whose gradient is sparse, an empty tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
        self.first = nn.Linear(8, 33)
        self.norm = nn.LayerNorm(33)
        self.last = nn.Linear(8, 33)
        self.last.weight = self.first.weight
        self.words = nn.Embedding(5, 33, sparse=True)
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.unused = nn.Parameter(torch.randn(7))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).mean((2, 3))
        y = self.norm(self.first(x)) + self.last(x) + self.words(torch.tensor([0, 3, 0])).sum(0)
        return y.square().sum() + self.empty.sum()


def run(measure: str, autocast: torch.dtype | None = None, weights: torch.dtype = torch.float32, **options: Any) -> Any:
    torch.manual_seed(0)
    model = Model().to(weights)
    samples = torch.randn(2, 1, 3, 5, 5).to(weights)
    with sk.TaylorImportance(model, measure, **options) as importance:
        for sample in samples if measure != "amp" else ():
            with torch.autocast("cpu", autocast, enabled=autocast is not None):
                loss = model(sample)
            loss.backward()
    return importance.result


@pytest.mark.parametrize(
    ("measure", "options"),
    [
        ("lp", {}),
        ("lp_amp", {"autocast": torch.bfloat16}),
        ("lp", {"weights": torch.bfloat16}),
        ("lp_amp", {"weights": torch.float64, "dtype": torch.bfloat16, "device": "cpu"}),
        ("amp", {"weights": torch.float16}),
    ],
)
def test_the_bits_of_the_native_core(measure: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(measure, **options)
    launches: list[int] = []
    accumulate = backend.launch_taylor_accumulate

    def counted(device: torch.device, pairs: Sequence[Any]) -> None:
        launches.append(len(pairs))
        accumulate(device, pairs)

    monkeypatch.setattr(backend, "launch_taylor_accumulate", counted)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "triton")
    found = run(measure, **options)
    assert launches == ([] if measure == "amp" else [9, 9]), "of all parameters but the unused, per pass"
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        assert torch.equal(found[name].view(torch.int16), values.view(torch.int16)), name
    assert found.statistics == expected.statistics
    assert found.model_digest == expected.model_digest
    assert (found.samples, found.measure) == (expected.samples, expected.measure)


@pytest.mark.parametrize(("copies", "kernels"), [(calls.COPIES, 1), (64, 3)])
def test_leaving_the_block_is_one_launch_and_one_wait(
    copies: int, kernels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many parameters; packed ones, whose copies exceed a bound, in parts."""
    seen: list[str] = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*arguments: Any, **more: Any) -> Any:
            seen.append(name)
            return function(*arguments, **more)

        return noting

    class Kernel:
        def __getitem__(self, grid: tuple[int]) -> Any:
            return noted("kernel", kernel[grid])

    def model() -> nn.Module:
        torch.manual_seed(1)
        layers = [nn.Linear(5, 5) for _ in range(6)]
        for layer in layers[2:4]:
            layer.weight = nn.Parameter(layer.weight.detach().t())
        return nn.Sequential(*layers)

    def finish(*arguments: Any) -> Any:
        with monkeypatch.context() as patch:
            for read in ("cpu", "item", "tolist"):
                patch.setattr(Tensor, read, noted("read", getattr(Tensor, read)))
            return original(*arguments)

    def importance() -> Any:
        with sk.TaylorImportance(layers := model()) as found:
            layers(torch.ones(1, 5)).square().sum().backward()
        return found.result

    expected = importance()
    kernel, original = taylor._finish_kernel, hooks.finish
    monkeypatch.setattr(calls, "COPIES", copies)
    monkeypatch.setattr(taylor, "_finish_kernel", Kernel())
    monkeypatch.setattr(hooks, "finish", finish)
    monkeypatch.setattr(backend, "launch_fold", noted("fold", backend.launch_fold))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "triton")
    found = importance()
    assert seen == [*["kernel"] * kernels, "fold", "read"]
    assert found.statistics == expected.statistics
    assert all(torch.equal(found[name], expected[name]) for name in expected)
