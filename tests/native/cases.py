"""Inputs for the comparison of backends: every corner that a kernel could round, order or skip differently."""

from __future__ import annotations

from typing import Any

import numpy as np

from sta_kernels.kernels.buffers import Buffer, DType

SUBNORMAL = np.float32(1e-42)


def stored(values: np.ndarray[Any, Any], dtype: DType) -> np.ndarray[Any, Any]:
    """Float32 values in the storage of a dtype."""
    if dtype is DType.BF16:
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return values.astype(dtype.numpy)


def weights(rng: np.random.Generator, n: int, kind: str) -> np.ndarray[Any, Any]:
    """Model weights: plain, or with signed zeros, subnormals and repeated values."""
    values = rng.normal(0, 0.02, n).astype(np.float32)
    if kind == "edges" and n:
        values[rng.random(n) < 0.2] = -0.0
        values[rng.random(n) < 0.1] = SUBNORMAL
        values[rng.random(n) < 0.1] = 0.25
    return values


def importance(rng: np.random.Generator, n: int, kind: str) -> np.ndarray[Any, Any]:
    """Importances of one task: lognormal over many binades, tied, constant, or with subnormals and NaN."""
    values = np.exp(rng.normal(-8, 3, n)).astype(np.float32)
    if kind == "ties":
        values = rng.integers(0, 4, n).astype(np.float32)
    elif kind == "constant":
        values = np.full(n, 0.5, np.float32)
    elif kind == "edges" and n:
        values[rng.random(n) < 0.2] = 0.0
        values[rng.random(n) < 0.2] = SUBNORMAL * rng.integers(1, 9)
        values[rng.random(n) < 0.05] = np.nan
        values[rng.random(n) < 0.05] = -0.0
    return values


def poisoned(n: int, dtype: DType) -> tuple[np.ndarray[Any, Any], Buffer]:
    """An output whose every byte is 0xFF, which is a NaN in every dtype."""
    array = np.full(n * dtype.itemsize, 0xFF, np.uint8).view(dtype.numpy)
    return array, Buffer.from_numpy(array, dtype)


def same_bits(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    """Equal to the last bit, NaN payloads included."""
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()
