"""Inputs for the comparison of backends: every corner that a kernel could round, order or skip differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sta_kernels.kernels.buffers import Buffer, DType
from sta_kernels.kernels.reference import dtypes, sta_merge

KINDS = ("plain", "ties", "constant", "edges", "quotients", "tiny quotients")
SUBNORMAL_QUOTIENTS = "subnormal quotients"
"""A kind whose importances are so far below the maximum that quotients are subnormal, and tie by their rounding."""
POSITIVE_QUOTIENTS = "positive quotients"
"""As "quotients", without a position where all importances are zero; normalised from zero on."""
SUBNORMAL = np.float32(1e-42)


def stored(values: np.ndarray[Any, Any], dtype: DType) -> np.ndarray[Any, Any]:
    """Float32 values in the storage of a dtype."""
    if dtype is DType.BF16:
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return values.astype(dtype.numpy)


def to_float32(values: np.ndarray[Any, Any], dtype: DType) -> np.ndarray[Any, Any]:
    """The float32 values of an array in the storage of a dtype."""
    return dtypes.bfloat16_to_float32(values) if dtype is DType.BF16 else values.astype(np.float32)


def weights(rng: np.random.Generator, n: int, kind: str) -> np.ndarray[Any, Any]:
    """Model weights: plain, or with signed zeros, subnormals and repeated values."""
    values = rng.standard_normal(n, np.float32) * np.float32(0.02)
    if kind == "edges" and n:
        values[rng.random(n) < 0.2] = -0.0
        values[rng.random(n) < 0.1] = SUBNORMAL
        values[rng.random(n) < 0.1] = 0.25
    return values


def importance(rng: np.random.Generator, n: int, kind: str) -> np.ndarray[Any, Any]:
    """Importances of one task: lognormal over many binades, tied, constant, or with subnormals and NaN.

    The last two kinds tie only after a correctly rounded division: each task holds the same fractions of a maximum of
    its own, and a quotient that is off by one unit in the last place breaks the tie. Tiny ones are subnormal before it.
    """
    values = np.exp(rng.standard_normal(n, np.float32) * np.float32(3) - np.float32(8))
    if kind == "ties":
        values = rng.integers(0, 4, n).astype(np.float32)
    elif kind == "constant":
        values = np.full(n, 0.5, np.float32)
    elif kind == "edges" and n:
        values[rng.random(n) < 0.2] = 0.0
        values[rng.random(n) < 0.2] = SUBNORMAL * rng.integers(1, 9)
        values[rng.random(n) < 0.05] = np.nan
        values[rng.random(n) < 0.05] = -0.0
    elif kind == "quotients":
        fractions = np.random.default_rng(n).integers(0, 9, n).astype(np.float32) / 8
        values = np.float32(rng.uniform(1, 2)) * fractions
        values[:1] = values.max(initial=0)
    elif kind == "tiny quotients":
        steps = np.random.default_rng(n).integers(0, 1 << 12, n).astype(np.float32)
        factor = np.float32(rng.choice([3, 5, 7, 11, 13, 41, 47, 55, 61]))
        values = factor * steps * np.float32(2.0**-149)
        values[:1] = factor * np.float32(2.0**-98)
    elif kind == POSITIVE_QUOTIENTS:
        fractions = np.random.default_rng(n).integers(1, 16, n).astype(np.float32) / 16
        values = np.float32(rng.uniform(1, 2)) * fractions
        values[:1] = values.max(initial=0)
    elif kind == SUBNORMAL_QUOTIENTS:
        values = rng.integers(0, 64, n).astype(np.float32) * np.float32(2.0**-149)
        values[:1] = rng.uniform(4, 8)
    return values


def poisoned(n: int, dtype: DType) -> tuple[np.ndarray[Any, Any], Buffer]:
    """An output whose every byte is 0xFF, which is a NaN in every dtype."""
    array = np.full(n * dtype.itemsize, 0xFF, np.uint8).view(dtype.numpy)
    return array, Buffer.from_numpy(array, dtype)


def same_bits(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    """Equal to the last bit, NaN payloads included."""
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def run_merge(backend: Any, case: MergeCase, *, threads: int = 1) -> tuple[np.ndarray[Any, Any], list[int]]:
    """Output bits and counters of one case on one backend."""
    out, buffer = poisoned(case.n, case.weight_dtype)
    counts = np.zeros(len(case.finetuned) + 1, np.int64)
    backend.sta_merge(
        Buffer.from_numpy(case.base, case.weight_dtype),
        [Buffer.from_numpy(array, case.weight_dtype) for array in case.finetuned],
        None
        if case.measure == "amp"
        else [Buffer.from_numpy(array, case.importance_dtype) for array in case.importances],
        measure=case.measure,
        normaliser_address=case.normaliser.ctypes.data,
        k=case.k,
        ties=case.ties,
        weights=case.weights,
        lambda_=case.lambda_,
        out=buffer,
        counts_address=counts.ctypes.data,
        threads=threads,
    )
    return out, counts.tolist()


@dataclass
class MergeCase:
    """Operands and parameters of one merge."""

    n: int
    weight_dtype: DType
    importance_dtype: DType
    base: np.ndarray[Any, Any]
    finetuned: list[np.ndarray[Any, Any]]
    importances: list[np.ndarray[Any, Any]]
    normaliser: np.ndarray[Any, Any]
    k: int
    measure: str = "lp"
    ties: str = "drop"
    weights: list[float] | None = None
    lambda_: float = 1.0

    @classmethod
    def draw(
        cls,
        n_tasks: int,
        n: int,
        weight_dtype: DType,
        importance_dtype: DType,
        kind: str,
        k: int,
        seed: int = 0,
        **parameters: Any,
    ) -> MergeCase:
        """Random operands of a kind, normalised by their own finite range as eq. 13 says."""
        rng = np.random.default_rng(seed)
        importances = [importance(rng, n, kind) for _ in range(n_tasks)]
        normaliser = np.zeros((n_tasks, 2), np.float32)
        for row, values in zip(normaliser, importances, strict=True):
            finite = values[np.isfinite(values)]
            if finite.size:
                least = np.float32(0) if kind == POSITIVE_QUOTIENTS else finite.min()
                row[:] = least, finite.max() - least
        return cls(
            n,
            weight_dtype,
            importance_dtype,
            stored(weights(rng, n, kind), weight_dtype),
            [stored(weights(rng, n, kind), weight_dtype) for _ in range(n_tasks)],
            [stored(values, importance_dtype) for values in importances],
            normaliser,
            k,
            **parameters,
        )


def run_together(backend: Any, cases: Sequence[MergeCase]) -> tuple[list[np.ndarray[Any, Any]], list[int]]:
    """What :func:`run_merge` gives for each case of the same parameters, with counters summed, from a single call.

    Each case is normalised by the reference first, and a normaliser of (0, 1) changes nothing.
    """
    first = cases[0]
    normalised = [
        sta_merge.normalise_exact(
            np.stack([to_float32(array, case.importance_dtype) for array in case.importances]), *case.normaliser.T
        )
        for case in cases
    ]
    together = replace(
        first,
        n=sum(case.n for case in cases),
        importance_dtype=DType.F32,
        base=np.concatenate([case.base for case in cases]),
        finetuned=[np.concatenate(arrays) for arrays in zip(*(case.finetuned for case in cases), strict=True)],
        importances=list(np.concatenate(normalised, axis=1)),
        normaliser=np.array([[0, 1]] * len(first.finetuned), np.float32),
    )
    out, counts = run_merge(backend, together)
    return np.split(out, np.cumsum([case.n for case in cases])[:-1]), counts
