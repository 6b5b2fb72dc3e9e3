"""Checkpoints of a given size, for what is measured from files to files. Written without the package under test."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

Shapes = dict[str, tuple[int, ...]]

_ITEMSIZE = {"BF16": 2, "F32": 4}


def transformer(n_elements: int, width: int = 1024) -> Shapes:
    """Names and shapes of a language model: an embedding of a quarter of the elements, then equal layers.

    Args:
        n_elements: altogether; what does not fill a layer goes to the embedding.
        width: of a token's vector.
    """
    layer = {"attention.weight": (width, width), "mlp.weight": (4 * width, width), "norm.weight": (width,)}
    per_layer = sum(map(prod, layer.values()))
    n_layers = n_elements * 3 // 4 // per_layer
    shapes: Shapes = {"embedding.weight": ((n_elements - n_layers * per_layer) // width, width)}
    for index in range(n_layers):
        shapes |= {f"layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes


def write(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str, seed: int) -> None:
    """One safetensors file: normal numbers as BF16, their squares as F32."""
    with open(path, "wb") as file:
        file.write(_header(shapes, dtype))
        values = _values(dtype, seed)
        for shape in shapes.values():
            left = prod(shape)
            while left:
                part = next(values)[:left]
                part.tofile(file)
                left -= len(part)


def write_hollow(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> None:
    """The same file with a hole for its tensors: for plans, which read headers only."""
    header = _header(shapes, dtype)
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(map(prod, shapes.values())) * _ITEMSIZE[dtype])


def recipe(base: Path, models: Mapping[Path, Path]) -> dict[str, Any]:
    """STA of models with their importances."""
    entries = [{"model": str(m), "parameters": {"importance": str(i)}} for m, i in models.items()]
    return {"merge_method": "sta", "base_model": str(base), "models": entries, "parameters": {"p": 0.7}}


def _header(shapes: Mapping[str, tuple[int, ...]], dtype: str) -> bytes:
    entries, start = {}, 0
    for name, shape in shapes.items():
        stop = start + prod(shape) * _ITEMSIZE[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _values(dtype: str, seed: int) -> Iterator[np.ndarray[Any, Any]]:
    """Blocks of values without end: one block, begun at another place each time."""
    generator = np.random.default_rng(seed)
    block = generator.standard_normal(1 << 22, np.float32)
    stored = (block.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else block * block
    while True:
        yield stored[generator.integers(len(stored) // 2) :]
