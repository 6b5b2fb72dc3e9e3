"""A model with a LoRA adapter reads as PEFT would merge it, with the same bits whatever range is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sta_kernels.checkpoint import adapter, low_rank, open_checkpoint
from sta_kernels.checkpoint.folder import split_reference
from sta_kernels.errors import InputError, RunError

Tensors = dict[str, torch.Tensor]
CONFIG = {"peft_type": "LORA", "r": 3, "lora_alpha": 7, "bias": "none", "init_lora_weights": True}
PREFIX = "base_model.model."
SHAPES = {
    "layers.0.q.weight": (6, 10),
    "layers.0.o.weight": (5, 5),
    "layers.0.conv.weight": (4, 3, 2, 2),
    "layers.0.norm.weight": (5,),
    "embed.weight": (11, 5),
    "head.bias": (4,),
}


def normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


class Pair:
    """A model and an adapter on disk, and what they hold."""

    def __init__(self, folder: Path) -> None:
        generator = torch.Generator().manual_seed(3)
        self.folder = folder
        self.model: Tensors = {name: normal(generator, *shape) for name, shape in SHAPES.items()}
        self.adapter: Tensors = {}
        self.config: dict[str, Any] = dict(CONFIG)
        self._generator = generator

    def factors(
        self, module: str, a: tuple[int, ...], b: tuple[int, ...], kind: str = "lora_", end: str = ".weight"
    ) -> None:
        for letter, shape in (("A", a), ("B", b)):
            self.adapter[f"{PREFIX}{module}.{kind}{letter}{end}"] = normal(self._generator, *shape)

    def save(self, dtype: torch.dtype = torch.float32, adapter_dtype: torch.dtype = torch.float32) -> str:
        for name in ("model", "adapter"):
            (self.folder / name).mkdir(exist_ok=True)
        self.model = {name: value.to(dtype) for name, value in self.model.items()}
        self.adapter = {name: value.to(adapter_dtype) for name, value in self.adapter.items()}
        save_file(self.model, self.folder / "model" / "model.safetensors")
        save_file(self.adapter, self.folder / "adapter" / "adapter_model.safetensors")
        (self.folder / "adapter" / "adapter_config.json").write_text(json.dumps(self.config))
        return f"{self.folder / 'model'}+{self.folder / 'adapter'}"


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def product(
    weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, transposed: bool = False
) -> np.ndarray[Any, Any]:
    """W + scale·B·A by its definition: float32, k in order, each operation rounded."""
    left, right = b.float().flatten(1).numpy(), a.float().flatten(1).numpy()
    total = np.zeros((left.shape[0], right.shape[1]), np.float32)
    for k in range(left.shape[1]):
        total = total + left[:, k : k + 1] * right[k]
    scaled = (total * np.float32(scale)).T if transposed else total * np.float32(scale)
    return (weight.float().numpy() + scaled.reshape(weight.shape)).astype(np.float32)


def read(reference: str, name: str) -> np.ndarray[Any, Any]:
    with open_checkpoint(reference) as checkpoint:
        entry = checkpoint.entries[name]
        assert entry.dtype == "F32"
        out = np.empty(entry.shape, np.float32)
        checkpoint.read_into(name, 0, out)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("adapter_dtype", [torch.float32, torch.bfloat16])
def test_the_sum_of_model_and_product(pair: Pair, dtype: torch.dtype, adapter_dtype: torch.dtype):
    pair.factors("layers.0.q", (3, 10), (6, 3))
    reference = pair.save(dtype, adapter_dtype)
    a, b = pair.adapter.values()
    got = read(reference, "layers.0.q.weight")
    assert got.tobytes() == product(pair.model["layers.0.q.weight"], a, b, 7 / 3).tobytes()
    exact = pair.model["layers.0.q.weight"].double() + b.double() @ a.double() * 7 / 3
    assert np.allclose(got, exact.numpy(), rtol=1e-5, atol=1e-5)


def test_what_the_adapter_leaves_alone_is_the_models_own(pair: Pair):
    pair.factors("layers.0.q", (3, 10), (6, 3))
    with open_checkpoint(pair.save(torch.bfloat16)) as both, open_checkpoint(pair.folder / "model") as model:
        assert list(both.entries) == list(model.entries)
        for name, entry in model.entries.items():
            if name == "layers.0.q.weight":
                assert (both.entries[name].dtype, both.entries[name].natural) == ("F32", "BF16")
            else:
                assert both.entries[name] == entry
        names = {file.name for file in both.files}
        assert names == {"model.safetensors", "adapter_model.safetensors", "adapter_config.json"}
        assert {file for file, _, _ in both.fingerprint()} == set(both.files)


@pytest.mark.parametrize("rslora", [False, True])
def test_the_scale_follows_patterns_of_ranks_and_alphas(pair: Pair, rslora: bool):
    pair.config |= {"use_rslora": rslora, "rank_pattern": {"q": 2, "0.conv": 4}, "alpha_pattern": {r".*\.0\.q": 5.0}}
    pair.factors("layers.0.q", (2, 10), (6, 2))
    pair.factors("layers.0.conv", (4, 3, 2, 2), (4, 4, 1, 1))
    pair.factors("layers.0.o", (3, 5), (5, 3))
    reference = pair.save()
    values = list(pair.adapter.values())
    for i, (name, alpha, rank) in enumerate((("q", 5, 2), ("conv", 7, 4), ("o", 7, 3))):
        name = f"layers.0.{name}.weight"
        scale = alpha / math.sqrt(rank) if rslora else alpha / rank
        want = product(pair.model[name], values[2 * i], values[2 * i + 1], scale)
        assert read(reference, name).tobytes() == want.tobytes()


@pytest.mark.parametrize("flag", [False, True])
def test_inputs_first_where_the_shape_or_else_the_flag_says_so(pair: Pair, flag: bool):
    pair.config["fan_in_fan_out"] = flag
    pair.factors("layers.0.q", (3, 6), (10, 3))  # as GPT-2 stores it, whatever the flag
    pair.factors("layers.0.o", (3, 5), (5, 3))  # square
    reference = pair.save()
    values = list(pair.adapter.values())
    q, o = "layers.0.q.weight", "layers.0.o.weight"
    assert read(reference, q).tobytes() == product(pair.model[q], *values[:2], 7 / 3, True).tobytes()
    assert read(reference, o).tobytes() == product(pair.model[o], *values[2:], 7 / 3, flag).tobytes()


def test_embeddings_are_looked_up_by_row(pair: Pair):
    pair.factors("embed", (3, 11), (5, 3), "lora_embedding_", "")
    reference = pair.save()
    a, b = pair.adapter.values()
    want = product(pair.model["embed.weight"], a, b, 7 / 3, True)
    assert read(reference, "embed.weight").tobytes() == want.tobytes()


def test_whole_modules_and_biases_take_the_place_of_the_models(pair: Pair):
    pair.config["modules_to_save"] = ["score", "norm"]
    bias, norm, score = torch.ones(4), torch.full((5,), 2.0), torch.full((2, 5), 3.0)
    pair.adapter = {f"{PREFIX}head.base_layer.bias": bias, f"{PREFIX}layers.0.norm.modules_to_save.weight": norm}
    pair.adapter[f"{PREFIX}score.modules_to_save.default.weight"] = score
    reference = pair.save(torch.bfloat16)
    for name, value in (("head.bias", bias), ("layers.0.norm.weight", norm), ("score.weight", score)):
        assert read(reference, name).tobytes() == value.numpy().tobytes()
    with open_checkpoint(reference) as both:
        assert both.entries["head.bias"].natural == "BF16"
        assert both.entries["score.weight"].natural is None
        assert list(both.entries)[-1] == "score.weight"


def test_older_names_and_files(pair: Pair):
    pair.factors("layers.0.q", (3, 10), (6, 3), end=".default.weight")
    reference = pair.save()
    a, b = pair.adapter.values()
    want = product(pair.model["layers.0.q.weight"], a, b, 7 / 3)
    assert read(reference, "layers.0.q.weight").tobytes() == want.tobytes()
    (pair.folder / "adapter" / "adapter_model.safetensors").unlink()
    torch.save(pair.adapter, pair.folder / "adapter" / "adapter_model.bin")
    assert read(reference, "layers.0.q.weight").tobytes() == want.tobytes()


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_any_range_of_bytes_has_the_same_bits(tmp_path_factory: pytest.TempPathFactory, data: Any):
    """In blocks far smaller than the tensor, so that they are cut in every way."""
    before, low_rank.BLOCK = low_rank.BLOCK, data.draw(st.sampled_from([3, 7, 16, 1 << 16]))
    try:
        pair = Pair(tmp_path_factory.mktemp("ranges"))
        pair.factors("layers.0.q", (3, 10), (6, 3))
        pair.factors("embed", (3, 11), (5, 3), "lora_embedding_", "")
        reference = pair.save(torch.bfloat16, torch.bfloat16)
        name = data.draw(st.sampled_from(["layers.0.q.weight", "embed.weight"]))
        whole = read(reference, name).tobytes()
        start = data.draw(st.integers(0, len(whole)))
        stop = data.draw(st.integers(start, len(whole)))
        part = bytearray(stop - start)
        with open_checkpoint(reference) as both:
            both.read_into(name, start, part)
            assert bytes(part) == whole[start:stop]
    finally:
        low_rank.BLOCK = before


def test_blocks_do_not_change_bits_and_bound_what_is_held(pair: Pair, monkeypatch: pytest.MonkeyPatch):
    pair.model["wide.weight"] = torch.randn(40, 300)
    pair.factors("wide", (3, 300), (40, 3))
    reference = pair.save()
    whole = read(reference, "wide.weight")
    monkeypatch.setattr(low_rank, "BLOCK", 64)
    largest = []

    def watch(read: Any, entry: Any, start: int, count: int) -> Any:
        largest.append(count)
        return original(read, entry, start, count)

    original = low_rank.read_float32
    for module in (low_rank, adapter):
        monkeypatch.setattr(module, "read_float32", watch)
    assert read(reference, "wide.weight").tobytes() == whole.tobytes()
    assert max(largest) <= 64


def test_ranges_outside_the_tensor_are_refused(pair: Pair):
    pair.factors("layers.0.q", (3, 10), (6, 3))
    with open_checkpoint(pair.save()) as both:
        for start, size in ((-4, 4), (236, 8), (240, 4)):
            with pytest.raises(ValueError, match=r"of a tensor of 240"):
                both.read_into("layers.0.q.weight", start, bytearray(size))


def test_a_changed_adapter_is_noticed(pair: Pair):
    pair.factors("layers.0.q", (3, 10), (6, 3))
    with open_checkpoint(pair.save()) as both:
        (pair.folder / "adapter" / "adapter_config.json").write_text("{}")
        with pytest.raises(RunError, match=r"adapter_config\.json: changed"):
            both.check_unchanged()


def test_a_tied_tensor_is_changed_under_all_its_names(pair: Pair):
    pair.factors("embed", (3, 11), (5, 3), "lora_embedding_", "")
    pair.save()
    torch.save({**pair.model, "head.weight": pair.model["embed.weight"]}, pair.folder / "tied.pt")
    reference = f"{pair.folder / 'tied.pt'}+{pair.folder / 'adapter'}"
    with open_checkpoint(reference) as both:
        one, other = np.empty((2, 11, 5), np.float32)
        both.read_into("embed.weight", 0, one)
        both.read_into("head.weight", 0, other)
        assert both.aliases == {"head.weight": "embed.weight"}
        assert one.tobytes() == other.tobytes()


def test_a_plus_sign_may_be_part_of_a_name(tmp_path: Path):
    for name in ("a+b", "c", "d+e", "a"):
        (tmp_path / name).mkdir()
    join = str(tmp_path) + "/"
    assert split_reference(f"{join}a+b") is None
    assert split_reference(f"{join}a+b+{join}c") == (f"{join}a+b", f"{join}c")
    assert split_reference(f"{join}a+{join}d+e") == (f"{join}a", f"{join}d+e")
    assert split_reference(f"{join}a+{join}nothing") is None


def key(name: str, value: Any) -> Callable[[Pair], None]:
    return lambda pair: pair.config.update({name: value})


def tensor(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Callable[[Pair], None]:
    return lambda pair: pair.adapter.update({PREFIX + name: torch.ones(shape, dtype=dtype)})


def without(end: str) -> Callable[[Pair], None]:
    def change(pair: Pair) -> None:
        pair.adapter = {name: value for name, value in pair.adapter.items() if not name.endswith(end)}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (key("peft_type", "IA3"), r"adapter_config\.json: peft_type: 'IA3'; only LORA"),
        (key("use_dora", True), r"adapter_config\.json: use_dora: not supported: DoRA"),
        (key("lora_bias", True), r"lora_bias: not supported"),
        (key("target_parameters", ["mlp.experts"]), r"target_parameters: not supported"),
        (key("init_lora_weights", "pissa_niter_4"), r"init_lora_weights: 'pissa_niter_4' changes the model"),
        (key("r", 0), r"r: expected a whole number from 1, not 0"),
        (key("r", True), r"r: expected a whole number from 1, not True"),
        (key("lora_alpha", None), r"lora_alpha: expected a number, not None"),
        (key("rank_pattern", {"q": "2"}), r"rank_pattern\.q: expected a whole number from 1, not '2'"),
        (key("rank_pattern", {"(": 2}), r"rank_pattern: '\(' is no pattern"),
        (key("alpha_pattern", {"(q+)+": 2}), r"alpha_pattern: '\(q\+\)\+' repeats or groups so much"),
        (key("alpha_pattern", [2]), r"alpha_pattern: expected patterns of names"),
        (key("r", 4), r"layers\.0\.q\.lora_A\.weight': factors of rank 3 and 3, but .*adapter_config\.json says 4"),
        (tensor("layers.0.q.lora_magnitude_vector", 6), r"lora_magnitude_vector' is no factor of a plain LoRA"),
        (tensor("layers.0.x.lora_A.weight", 3, 5), r"no tensor 'layers\.0\.x\.weight' to add it to"),
        (tensor("layers.0.y.weight", 3, 5), r"the model .* has no tensor 'layers\.0\.y\.weight'"),
        (tensor("layers.0.q.lora_B.weight", 7, 3), r"factors \[3, 10\] and \[7, 3\] do not fit 'layers\.0\.q\.weight'"),
        (tensor("layers.0.q.lora_B.weight", 6, 3, dtype=torch.int64), r"is I64, which cannot be multiplied"),
        (tensor("layers.0.q.lora_B.weight", 6), r"of shape \[6\] is no factor"),
        (without("lora_B.weight"), r"its other factor is missing"),
    ],
)  # fmt: skip
def test_refused_naming_file_and_key(pair: Pair, change: Callable[[Pair], None], message: str):
    pair.factors("layers.0.q", (3, 10), (6, 3))
    change(pair)
    dtypes = {name: value.dtype for name, value in pair.adapter.items()}
    reference = pair.save()
    save_file(
        {name: value.to(dtypes[name]) for name, value in pair.adapter.items()},
        pair.folder / "adapter" / "adapter_model.safetensors",
    )
    with pytest.raises(InputError, match=message):
        open_checkpoint(reference)


def test_a_folder_that_is_no_adapter(pair: Pair):
    pair.factors("layers.0.q", (3, 10), (6, 3))
    reference = pair.save()
    (pair.folder / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"adapter: holds neither adapter_model\.safetensors nor"):
        open_checkpoint(reference)
    (pair.folder / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(InputError, match=r"adapter_config\.json: no such file"):
        open_checkpoint(reference)
    with pytest.raises(InputError, match=r"adapter: holds no model\.safetensors"):
        open_checkpoint(pair.folder / "adapter")
