"""A few values of a model, digested: enough to tell it from every other, and read in no time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xxhash

from sta_kernels.checkpoint.names import plain_names
from sta_kernels.checkpoint.positioned import byte_view

TENSORS = 16
ELEMENTS = 64
"""That are taken at most of a model, and of a tensor."""

ReadValues = Callable[[str, int, int], "np.ndarray[Any, np.dtype[np.float32]]"]


def sample_of(sizes: Mapping[str, int], read: ReadValues) -> str:
    """Digest of a run of float32 values from the middle of each of a few tensors, evenly spread over their names.

    Neither the order nor wrapping prefixes of the names matter, nor a dtype that holds the values exactly.

    Args:
        sizes: elements per tensor, of the tensors that were trained.
        read: gives float32 values of a tensor: name, first element, number.

    Returns:
        32 hexadecimal digits.
    """
    plain = plain_names(sizes)
    names = sorted(sizes, key=lambda name: plain[name])
    state = xxhash.xxh3_128()
    for name in dict.fromkeys(names[i * len(names) // TENSORS] for i in range(TENSORS if names else 0)):
        count = min(sizes[name], ELEMENTS)
        values = read(name, (sizes[name] - count) // 2, count)
        text = plain[name].encode()
        state.update(len(text).to_bytes(8, "little") + text + sizes[name].to_bytes(8, "little"))
        state.update(byte_view(np.ascontiguousarray(values, "<f4")))
    return state.hexdigest()
