"""Rules with factors of their own for every row of a tensor, or every column: sums along an axis, and what follows.

Operands are read some rows at a time, through the backend, wherever they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.kernels.formula import Formula, FormulaSource
from sta_kernels.kernels.reference.environment import ieee_arithmetic
from sta_kernels.methods.base import Operands
from sta_kernels.methods.gram import Array, gram, pairs

CHUNK = 1 << 16
"""Elements that are read at once, unless a row has more."""
_LANES = 32


def width_of(shape: tuple[int, ...]) -> int:
    """Elements of a row along the last axis; a scalar is one row of one."""
    return shape[-1] if shape else 1


@ieee_arithmetic()
def row_sums(values: Array) -> Array:
    """Sum of each row in a fixed order: 32 lanes in float64, folded 16, 8, 4, 2, 1.

    Args:
        values: float32 or float64 [rows, width].

    Returns:
        float64 [rows].
    """
    rows, width = values.shape
    padded = np.zeros((rows, -(-width // _LANES), _LANES), np.float64)
    padded.reshape(rows, -1)[:, :width] = values
    lanes = padded.sum(axis=1)  # row by row: only along the last axis would NumPy choose an order of its own
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return np.asarray(lanes[:, 0])


def in_rows(width: int, size: int) -> Iterator[tuple[int, int]]:
    """First element, and the one after the last, of some rows at a time."""
    step = max(1, CHUNK // width) * width
    return ((start, min(start + step, size)) for start in range(0, size, step))


@ieee_arithmetic()
def row_gram(
    backend: Backend, operands: Operands, points: Sequence[int], shape: tuple[int, ...], axis: int, *, centred: bool
) -> Array:
    """Dots of models, row by row; products are exact, and added up in a fixed order.

    Args:
        backend: reads the operands.
        operands: of a whole segment that is not empty.
        points: indices of models.
        shape: of the segment.
        axis: −1: rows, along the last axis; 0: columns, along the first.
        centred: of the task vectors, where there is a base.

    Returns:
        float64 [n, n, rows].
    """
    size = math.prod(shape)
    width = width_of(shape) if axis == -1 else size // shape[0]
    origin = operands.base if centred else None
    buffers = [operands.models[index] for index in points]
    found = pairs(range(len(points)))
    parts: list[list[Array]] = [[] for _ in found]
    totals = np.zeros((len(found), width), np.float64)
    for start, stop in in_rows(width, size):
        start_values = 0 if origin is None else _read(backend, origin, start, stop, width)
        vectors = [(_read(backend, buffer, start, stop, width) - start_values).astype(np.float64) for buffer in buffers]
        for pair, (i, j) in enumerate(found):
            products = vectors[i] * vectors[j]
            if axis == -1:
                parts[pair].append(row_sums(products))
            else:
                for row in products:
                    totals[pair] += row
    return gram([np.concatenate(sums) for sums in parts] if axis == -1 else list(totals), len(points))


def _read(backend: Backend, buffer: Buffer, start: int, stop: int, width: int) -> Array:
    return backend.values(ImportanceSource("lp", buffer), start, stop).reshape(-1, width)


def gram_bytes(n_points: int, shape: tuple[int, ...]) -> int:
    """Main memory that :func:`row_gram` and the factors of a segment take, whichever the axis."""
    size, width, height = math.prod(shape), width_of(shape) or 1, (shape[0] if shape else 1) or 1
    longest = max(CHUNK, width, size // height)
    rows = max(size // width, size // height)
    return longest * (12 * n_points + 24) + 8 * rows * (3 * n_points**2 + 8)


def spread(values: Array, shape: tuple[int, ...], axis: int, like: Buffer) -> Buffer:
    """One number per row as an operand of a tensor's shape, without a copy for each entry.

    Args:
        values: [rows], as :func:`row_gram` counts them.
        shape: of the tensor.
        axis: as for :func:`row_gram`.
        like: an operand, on whose device the numbers are put.
    """
    full = shape or (1,)
    kept = (*full[:-1], 1) if axis == -1 else (1, *full[1:])
    numbers = np.ascontiguousarray(values, np.float32).reshape(kept)
    if not getattr(like.owner, "is_cuda", False):
        return Buffer.from_numpy(np.broadcast_to(numbers, full))
    import torch

    return Buffer.from_torch(torch.from_numpy(numbers).to(like.owner.device).expand(full))


def scaled_sum(
    backend: Backend,
    operands: Operands,
    factors: Array,
    shape: tuple[int, ...],
    axis: int,
    *,
    centred: bool,
    out: Buffer,
    threads: int,
) -> None:
    """``Σ f_i·θ_i`` with factors of each row, or the base and ``Σ f_i·τ_i``.

    Args:
        backend: whose kernels to call.
        operands: of a whole segment.
        factors: [models, rows].
        shape: of the segment.
        axis: as for :func:`row_gram`.
        centred: of the task vectors, where there is a base.
        out: of the operands' size.
        threads: upper bound.
    """
    origin = operands.base if centred else None
    spread_out = tuple(spread(each, shape, axis, operands.models[0]) for each in factors)
    formula = Formula("scaled_sum", (int(origin is not None),))
    source = FormulaSource(formula, operands.models, origin, spread_out, operands.offset)
    backend.evaluate(source, out=out, threads=threads)
