"""Merges of arrays of any shape, with or without a base, on a backend of choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sta_kernels import methods
from sta_kernels.kernels import get_backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.methods.base import Operands, Place
from sta_kernels.methods.run import Piece, merge_pieces

Array = np.ndarray[Any, Any]
BACKENDS = ("reference", "native")


def merged(
    name: str,
    base: Array | None,
    models: Sequence[Array],
    backend: str = "native",
    out_dtype: Any = None,
    **values: Any,
) -> Array:
    """What a method makes of float32 arrays, or of float64 ones with ``out_dtype``."""
    method = methods.get(name)
    dtype = out_dtype or np.float32
    arrays = [np.ascontiguousarray(model, dtype) for model in models]
    origin = None if base is None else Buffer.from_numpy(np.ascontiguousarray(base, dtype).reshape(np.shape(base)))
    operands = Operands(tuple(Buffer.from_numpy(array.reshape(np.shape(models[0]))) for array in arrays), origin)
    out = np.full(np.shape(models[0]), np.nan, dtype)
    settings = methods.resolve(method, len(models), **values)
    piece = Piece(operands, Buffer.from_numpy(out), Place.alone(out.shape, "w"))
    merge_pieces(method, [piece], settings, backend=get_backend(backend), threads=1)
    return out


def same_on_all(name: str, base: Array | None, models: Sequence[Array], **values: Any) -> Array:
    """The result, once every backend has given the same bits."""
    results = [merged(name, base, models, backend, **values) for backend in BACKENDS]
    assert len({result.tobytes() for result in results}) == 1
    return results[0]


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    """Float32 values in float64, so that the oracle starts from the same numbers."""
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32).astype(np.float64)
