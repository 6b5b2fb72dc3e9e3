"""Small checkpoints as mergekit wants them: a base and four fine-tuned models of one architecture."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

MODELS = 4
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}
VIT = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
    "num_labels": 7,
}


@dataclass(frozen=True)
class Family:
    """A base and its fine-tuned models: folders, and the tensors in float32."""

    base: Path
    models: tuple[Path, ...]
    tensors: Mapping[str, Mapping[str, torch.Tensor]]
    filters: tuple[str, ...]

    def of(self, folder: Path | str) -> Mapping[str, torch.Tensor]:
        """The tensors of one of the folders."""
        return self.tensors[str(folder)]


def llama_shapes(config: Mapping[str, Any], *, head: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama checkpoint."""
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    narrow = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, shape in {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (narrow, hidden),
            "self_attn.v_proj": (narrow, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "post_attention_layernorm": (hidden,),
            "mlp.up_proj": (inner, hidden),
            "mlp.gate_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }.items():
            shapes[f"{prefix}{name}.weight"] = shape
    shapes["model.norm.weight"] = (hidden,)
    if head:
        shapes["lm_head.weight"] = (vocabulary, hidden)
    return shapes


def write_llama(folder: Path, *, seed: int, tied: bool = False, dtype: str = "float32") -> Family:
    """Llama-like models; a tied one has no head of its own."""
    config = {**LLAMA, "tie_word_embeddings": tied}
    filters = ("self_attn", "q_proj", "mlp", "layers.1.", "layernorm", "embed_tokens")
    return write_family(folder, config, llama_shapes(config, head=not tied), seed, filters, dtype)


def write_vit(folder: Path, *, seed: int, shapes: Callable[[Any, str], Mapping[str, list[int]]]) -> Family:
    """ViT-like models, under the names that the installed transformers gives them: mergekit writes no others."""
    named = {name: tuple(shape) for name, shape in shapes(VIT, "ViTForImageClassification").items()}
    return write_family(folder, VIT, named, seed, ("attention", "mlp", ".2.", "bias", "embeddings"))


def write_family(
    folder: Path,
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    seed: int,
    filters: tuple[str, ...],
    dtype: str = "float32",
) -> Family:
    """A base of spread 1/2; models further and further away from it, by and large in the same direction.

    A quarter of a model's entries never moved.
    """
    generator = torch.Generator().manual_seed(seed)
    stored = getattr(torch, dtype)

    def normal(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    base = {name: (0.5 * normal(shape)).to(stored) for name, shape in shapes.items()}
    common = {name: normal(shape) for name, shape in shapes.items()}
    folders = [folder / "base", *(folder / f"model{i}" for i in range(MODELS))]
    tensors = {str(folders[0]): base}
    for i, path in enumerate(folders[1:]):
        tensors[str(path)] = moved = {}
        for name, shape in shapes.items():
            step = 0.05 * 2**i * (0.7 * common[name] + 0.7 * normal(shape))
            some = torch.rand(shape, generator=generator) > 0.25
            moved[name] = (base[name].float() + step * some).to(stored)
    for path in folders:
        write_checkpoint(path, tensors[str(path)], {**config, "torch_dtype": dtype})
    widened = {path: {name: tensor.float() for name, tensor in held.items()} for path, held in tensors.items()}
    return Family(folders[0], tuple(folders[1:]), widened, filters)


def write_checkpoint(folder: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> None:
    """One folder."""
    folder.mkdir(parents=True)
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


def read_checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a merge's result."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors
