"""Lists of tensor sizes like those of real models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod


def vit(*, width: int, layers: int, patch: int, output: int, image: int = 224) -> list[int]:
    """The visual tower of CLIP (open_clip's names and order): patches, transformer blocks, projection."""
    tokens = (image // patch) ** 2 + 1
    block = [
        (width,), (width,),  # ln_1
        (3 * width, width), (3 * width,),  # attn.in_proj
        (width, width), (width,),  # attn.out_proj
        (width,), (width,),  # ln_2
        (4 * width, width), (4 * width,),  # mlp.c_fc
        (width, 4 * width), (width,),  # mlp.c_proj
    ]  # fmt: skip
    first = [(width,), (tokens, width), (width, output), (width, 3, patch, patch), (width,), (width,)]
    return [prod(shape) for shape in (*first, *block * layers, (width,), (width,))]


def llama(*, width: int, layers: int, hidden: int, vocabulary: int) -> list[int]:
    """A decoder without shared heads: embedding, blocks, norm, head."""
    block = [width * width] * 4 + [width * hidden] * 3 + [width] * 2
    return [vocabulary * width, *block * layers, width, vocabulary * width]


MODELS: dict[str, Callable[[], list[int]]] = {
    "ViT-B/16-like": lambda: vit(width=768, layers=12, patch=16, output=512),
    "ViT-L/14-like": lambda: vit(width=1024, layers=24, patch=14, output=768),
    "7B-like": lambda: llama(width=4096, layers=32, hidden=11008, vocabulary=32000),
}


def fitting(sizes: Sequence[int], bytes_per_element: int, budget: int) -> list[int]:
    """The first tensors of a model that fit a budget together.

    Raises:
        ValueError: not even the first does.
    """
    taken, left = [], budget
    for size in sizes:
        left -= size * bytes_per_element
        if left < 0:
            break
        taken.append(size)
    if not taken:
        raise ValueError(f"a tensor of {sizes[0]} elements does not fit {budget} bytes")
    return taken
