"""Llama-like checkpoints of a given size with realistic deltas, which mergekit reads, too.

Seeded, and written without the package under test. Weights are normal with σ = 0.02; a model differs from the base by
σ = 1e-4 or 2e-3, in turn, and is rounded to bfloat16: of the small differences, a fifth equal the threshold of a trim.
Importances are products of two normal numbers, positive, in bfloat16, with their statistics in the file, as
``TaylorImportance.save`` writes them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

Shapes = dict[str, tuple[int, ...]]
Array = np.ndarray[Any, Any]
Values = Callable[[str, int], Iterable[Array]]

SIGMA = 0.02
DELTAS = (1e-4, 2e-3)
WEIGHTS = "model.safetensors"
IMPORTANCE = "importance.safetensors"
_BLOCK = 1 << 20
_ROOM = 80  # bytes of a tensor's statistics, at most


@dataclass(frozen=True)
class Family:
    """Folders of a base and of what was fine-tuned from it: :data:`WEIGHTS`, and for models :data:`IMPORTANCE`."""

    base: Path
    models: tuple[Path, ...]

    def first(self, n_models: int) -> Family:
        """The same with fewer models."""
        return Family(self.base, self.models[:n_models])


def llama(n_elements: int) -> tuple[Shapes, dict[str, Any]]:
    """Names and shapes of a checkpoint of about so many elements, and its ``config.json``.

    At 267 M it is 16 layers of width 1024 with 32,000 tokens; smaller ones have fewer layers, then narrower ones.
    """
    width = 1024
    while width > 64 and n_elements < 32 * width * width:
        width //= 2
    inner = width * 171 // 64
    layer: Shapes = {f"self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
    layer |= {f"mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
    layer |= {"mlp.down_proj.weight": (width, inner)}
    layer |= {"input_layernorm.weight": (width,), "post_attention_layernorm.weight": (width,)}
    per_layer = sum(map(prod, layer.values()))
    n_layers = max(1, n_elements * 3 // 4 // per_layer)
    tokens = max(64, (n_elements - n_layers * per_layer) // (2 * width))
    shapes: Shapes = {"model.embed_tokens.weight": (tokens, width)}
    for index in range(n_layers):
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    shapes |= {"model.norm.weight": (width,), "lm_head.weight": (tokens, width)}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": n_layers,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64,
        "vocab_size": tokens,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    return shapes, config


def write(folder: Path, n_bytes: int, n_models: int, *, importances: bool = True) -> Family:
    """A base and fine-tuned models of so many bytes each."""
    shapes, config = llama(n_bytes // 2)
    base, *models = paths = [folder / name for name in ("base", *map(str, range(n_models)))]
    for index, path in enumerate(paths):
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(config, indent=2))
        _write_file(path / WEIGHTS, shapes, _fine_tuned(index))
        if index and importances:
            _write_file(path / IMPORTANCE, shapes, _importance(index), "lp")
    return Family(base, tuple(models))


def relabel(path: Path, measure: str) -> None:
    """Let an importance say that it holds another measure; nothing moves."""
    with open(path, "r+b") as file:
        room = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(room))
        header["__metadata__"]["sta_kernels.measure"] = measure
        text = json.dumps(header).encode().ljust(room)
        assert len(text) == room
        file.seek(8)
        file.write(text)
        _sync(file)


def _fine_tuned(index: int) -> Values:
    """Values of model ``index``; 0 is the base."""
    base, change = _Noise(0), _Noise(index)
    sigma = DELTAS[(index - 1) % len(DELTAS)]

    def values(name: str, size: int) -> Iterable[Array]:
        parts = (_widened(_bfloat16(SIGMA * part)) for part in base.parts(name, size))
        return parts if index == 0 else (w + sigma * d for w, d in zip(parts, change.parts(name, size), strict=True))

    return values


def _importance(index: int) -> Values:
    one, other = _Noise(1000 + index), _Noise(2000 + index)

    def values(name: str, size: int) -> Iterable[Array]:
        return (1e-4 * abs(a * b) for a, b in zip(one.parts(name, size), other.parts(name, size), strict=True))

    return values


class _Noise:
    """Normal numbers: one block of them, begun at another place for each part of each tensor."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._block = np.random.default_rng(seed).standard_normal(2 * _BLOCK, np.float32)

    def parts(self, name: str, size: int) -> Iterable[Array]:
        """``size`` numbers in parts of a block; the same for the same name."""
        starts = np.random.default_rng([self._seed, *name.encode()])
        for begin in range(0, size, _BLOCK):
            start = int(starts.integers(_BLOCK))
            yield self._block[start : start + min(_BLOCK, size - begin)]


def _bfloat16(values: Array) -> Array:
    """Bits of finite float32 numbers, rounded to nearest even."""
    bits = values.astype(np.float32, copy=False).view(np.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16)


def _widened(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _write_file(path: Path, shapes: Mapping[str, tuple[int, ...]], values: Values, measure: str | None = None) -> None:
    """One safetensors file; with a measure, an importance, whose statistics go into the header when they are known."""
    statistics: dict[str, list[float]] = {}
    room = len(_header(shapes, {})) + 400 + sum(len(name) + _ROOM for name in shapes) if measure else 0
    with open(path, "wb") as file:
        file.seek(len(_header(shapes, {}, room)))
        for name, shape in shapes.items():
            low, high, total = np.inf, -np.inf, 0.0
            for part in values(name, prod(shape)):
                stored = _bfloat16(part)
                stored.tofile(file)
                if measure:
                    known = _widened(stored)
                    low, high = min(low, float(known.min())), max(high, float(known.max()))
                    total += float(known.sum(dtype=np.float64))
            statistics[name] = [low, high, total / prod(shape)]
        file.seek(0)
        file.write(_header(shapes, _metadata(measure, statistics) if measure else {}, room))
        _sync(file)


def _sync(file: BinaryIO) -> None:
    """What is not yet on the disk cannot be dropped from the page cache."""
    file.flush()
    os.fsync(file.fileno())


def _metadata(measure: str, statistics: Mapping[str, list[float]]) -> dict[str, str]:
    facts = {"importance": "1", "measure": measure, "samples": "32", "model_digest": "", "version": "benchmark"}
    facts["statistics"] = json.dumps(statistics, separators=(",", ":"))
    return {f"sta_kernels.{key}": value for key, value in facts.items()}


def _header(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str], room: int = 0) -> bytes:
    """The first bytes of a file whose tensors are bfloat16, padded to at least ``room``."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    start = 0
    for name, shape in shapes.items():
        stop = start + 2 * prod(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries).encode().ljust(room)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
