"""Functions on tensors take the values that a merge of state dicts takes, and refuse others by the parameter's name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sta_kernels as sk
from sta_kernels import ops
from sta_kernels.methods.adamerging import Coefficients

BASE = torch.linspace(-1, 1, 24).reshape(4, 6)
MODELS = [BASE + torch.linspace(0, 0.1, 24).reshape(4, 6), BASE * 1.25]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ties", {"density": np.float32(0.4)}),
        ("ties", {"density": [np.float32(0.4), np.float64(0.6)], "normalize": np.bool_(False)}),
        ("task_arithmetic", {"weight": (np.float32(0.1), 2)}),
        ("consensus", {"k": np.int64(1)}),
        ("dare_linear", {"seed": 2**64 - 1, "density": 0.5}),
        ("dare_linear", {"seed": np.uint64(2**64 - 1), "density": 0.5}),
        ("adamerging", {"coefficients": [np.float32(0.1), 0.2]}),
        ("adamerging", {"coefficients": Coefficients.of([0.1, 0.2])}),
        ("adamerging", {"coefficients": Coefficients.of([0.1, 0.2], {"w": [0.3, 0.4]})}),
        ("adamerging", {"coefficients": {"w": (0.3, 0.4)}}),
    ],
)
def test_what_a_merge_takes(name: str, parameters: dict[str, Any]):
    want = sk.merge({"w": BASE}, [{"w": model} for model in MODELS], method=name, **parameters)["w"]
    named = {} if name == "task_arithmetic" else {"tensor": "w"}
    assert torch.equal(getattr(ops, name)(BASE, MODELS, **named, **parameters), want)


def test_a_path(tmp_path: Path):
    table = Coefficients.of(None, {"w": (0.1, 1 / 3)})
    path = tmp_path / "table.json"
    path.write_text(table.to_json())
    got = ops.adamerging(BASE, MODELS, coefficients=path, tensor="w")
    assert torch.equal(got, ops.adamerging(BASE, MODELS, coefficients=table, tensor="w"))


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("task_arithmetic", {"weight": torch.ones(2)}, r"weight: expected a number, or a list of them, got tensor"),
        ("ties", {"weight": torch.ones(2)}, r"weight: expected a number, text, or a list of them, got tensor"),
        ("linear", {"weight": "1"}, r"weight: expected a number, or a list of them, got '1'"),
        ("task_arithmetic", {"weight": [1, {2}]}, r"weight: expected .*, got \{2\}"),
        ("ties", {"density": np.ones(2)}, r"density: expected a number, text, or a list of them, got array"),
        ("ties", {"density": b"1"}, r"density: expected a number"),
        ("ties", {"density": np.float32("nan")}, r"density: expected a finite float32 number"),
        ("adamerging", {"coefficients": {"w": 0.3}}, r"coefficients: 'w': expected one coefficient per model, got 0.3"),
    ],
)
def test_what_no_merge_takes(name: str, parameters: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        getattr(ops, name)(BASE, MODELS, **parameters)
