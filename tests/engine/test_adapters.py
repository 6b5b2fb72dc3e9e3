"""Merges of models that are a base and a LoRA adapter, from files to files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sta_kernels.checkpoint import hash_file, open_checkpoint
from sta_kernels.engine import Manifest, merge_checkpoints
from sta_kernels.errors import InputError

Tensors = dict[str, torch.Tensor]
WEIGHT = "layers.0.q.weight"
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def base(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tensors:
    """A base and adapters a and b in the working directory."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(request.param)

    tensors = {WEIGHT: normal(130, 70), "layers.0.norm.weight": normal(70), "head.weight": normal(9, 70)}
    for folder in ("base", "a", "b"):
        Path(folder).mkdir()
    save_file(tensors, "base/model.safetensors")
    for folder in ("a", "b"):
        factors = {
            f"base_model.model.layers.0.q.lora_{x}.weight": normal(*s) for x, s in (("A", (4, 70)), ("B", (130, 4)))
        }
        save_file(factors, f"{folder}/adapter_model.safetensors")
        Path(folder, "adapter_config.json").write_text(json.dumps(CONFIG))
    return tensors


def adapted(reference: str, name: str = WEIGHT) -> torch.Tensor:
    with open_checkpoint(reference) as checkpoint:
        out = torch.empty(checkpoint.entries[name].shape)
        checkpoint.read_into(name, 0, out.numpy())
    return out


def recipe(method: str, *models: str, base: str | None = "base", **keys: Any) -> dict[str, Any]:
    named = {} if base is None else {"base_model": base}
    return {"merge_method": method, **named, "models": [{"model": model} for model in models], **keys}


def merged(recipe: dict[str, Any], out: str = "out", **options: Any) -> Tensors:
    assert isinstance(merge_checkpoints(recipe, out, **options), Manifest)
    return load_file(Path(out, "model.safetensors"))


def test_adapters_are_tasks_like_any_other(base: Tensors):
    out = merged(recipe("task_arithmetic", "base+a", "base+b", parameters={"weight": 0.5}))
    theta = base[WEIGHT].float()
    want = theta + (0.5 * (adapted("base+a") - theta) + 0.5 * (adapted("base+b") - theta))
    assert out[WEIGHT].dtype == base[WEIGHT].dtype
    assert torch.equal(out[WEIGHT], want.to(base[WEIGHT].dtype))
    assert torch.equal(out["head.weight"], base["head.weight"])


def test_an_adapter_is_rounded_to_its_models_dtype_unless_asked_otherwise(base: Tensors):
    dtype = base[WEIGHT].dtype
    out = merged(recipe("passthrough", "base+a", base=None))
    assert {name: tensor.dtype for name, tensor in out.items()} == dict.fromkeys(base, dtype)
    assert torch.equal(out[WEIGHT], adapted("base+a").to(dtype))
    wide = merged(recipe("passthrough", "base+a", base=None, dtype="float32"), "wide")
    assert torch.equal(wide[WEIGHT], adapted("base+a"))


def test_bits_do_not_depend_on_tiles_or_threads(base: Tensors, shrink_buffers: Callable[..., None]):
    what = recipe("task_arithmetic", "base+a", "base+b")
    whole = merged(what, threads=1)
    shrink_buffers(200_000, 70_000)
    cut = merged(what, "cut", threads=3)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_an_adapted_base(base: Tensors):
    out = merged(recipe("task_arithmetic", "base+b", base="base+a"))
    theta = adapted("base+a")
    assert torch.equal(out[WEIGHT], (theta + (adapted("base+b") - theta)).to(base[WEIGHT].dtype))


def test_the_files_of_adapters_are_inputs(base: Tensors):
    what = recipe("task_arithmetic", "base+a")
    result = merge_checkpoints(what, "out")
    assert isinstance(result, Manifest)
    files = {file["path"]: file["digest"] for record in result.inputs for file in record["files"]}
    assert {Path(path).name for path in files} == {
        "model.safetensors", "adapter_model.safetensors", "adapter_config.json"
    }  # fmt: skip
    assert all(digest == hash_file(path)[1].hex() for path, digest in files.items())
    Path("a/adapter_config.json").write_text(json.dumps({**CONFIG, "lora_alpha": 9}))
    with pytest.raises(InputError, match="of inputs that have changed"):
        merge_checkpoints(what, "out")


@pytest.mark.parametrize(
    ("out", "message"), [("a", "is the input a"), ("a/x", "lies in the input a"), ("base", "is the")]
)
def test_neither_folder_is_written_to(base: Tensors, out: str, message: str):
    with pytest.raises(InputError, match=message):
        merge_checkpoints(recipe("task_arithmetic", "base+a"), out)


def test_an_adapter_of_another_model_is_named(base: Tensors):
    save_file({"x.weight": torch.ones(3)}, "other.safetensors")
    with pytest.raises(InputError, match=r"a/adapter_model\.safetensors.*: the model has no tensor 'layers\.0\.q"):
        merge_checkpoints(recipe("task_arithmetic", "other.safetensors+a"), "out")


def test_an_adapter_alone_is_no_model(base: Tensors):
    with pytest.raises(InputError, match=r"a: a LoRA adapter; name it behind its model, as MODEL\+a"):
        merge_checkpoints(recipe("task_arithmetic", "a"), "out")
