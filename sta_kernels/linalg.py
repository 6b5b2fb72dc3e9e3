"""Decompositions and solves of whole matrices, by torch: what the methods that are more than elementwise rest on.

Every call computes with one thread, whoever calls it, so that the number of threads changes no bit; which bits come out
depends on the LAPACK that torch was built with (tier C).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from sta_kernels.errors import InputError
from sta_kernels.kernels.buffers import Buffer, DType

_TORCH = {
    DType.F32: torch.float32,
    DType.BF16: torch.bfloat16,
    DType.F16: torch.float16,
    DType.F64: torch.float64,
}
_MORE_JITTER = 10.0
"""Factor from one attempt at a Cholesky factor to the next."""
_LEAST_JITTER = 1e-12
"""Of the attempts after one without any."""


def tensor_of(buffer: Buffer) -> Tensor:
    """The memory of a buffer as a tensor, on whichever device it is."""
    owner = buffer.owner
    if isinstance(owner, Tensor) and owner.data_ptr() == buffer.address and tuple(owner.shape) == buffer.shape:
        return owner.detach()
    return torch.from_numpy(buffer.numpy()).view(_TORCH[buffer.dtype])


class _OneThread:
    """How many callers compute with one thread now, and how many threads torch had before the first of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = 1

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._inside == 0:
                self._before = torch.get_num_threads()
            self._inside += 1
            torch.set_num_threads(1)  # of this thread, and of any that torch has not seen yet
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                torch.set_num_threads(self._before)


one_thread = _OneThread()
"""Within it, torch computes with one thread in the calling thread."""


def svd(matrix: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Thin singular value decomposition, U [m, r], S [r] and Vᴴ [r, n].

    Args:
        matrix: [m, n], float32 or float64.
        name: of the tensor, for the error.

    Raises:
        InputError: it does not converge, as where the matrix holds a NaN.
    """
    try:
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError as error:
        raise InputError(f"{name!r}: its singular values cannot be computed ({error}); exclude it") from None
    return left, values, right


def polar(matrix: Tensor, name: str) -> Tensor:
    """The nearest matrix with orthonormal rows or columns, ``PQᵀ`` of the decomposition ``PΣQᵀ``."""
    left, _, right = svd(matrix, name)
    return left @ right


def merged_singular_vectors(base: Tensor, models: Sequence[Tensor], rank: int, name: str) -> Tensor | None:
    """``polar(U)·diag(S)·polar(V)`` of the first ``rank`` singular triplets of each ``τ_i``, joined.

    A task vector of zeros has no singular vectors, and takes no part.

    Args:
        base: θ0, [m, n], any floating dtype.
        models: θ_i, [m, n] each.
        rank: of each task, so many that all together are at most min(m, n).
        name: of the tensor, for errors.

    Returns:
        float32 [m, n]; None where nothing is retained.
    """
    start = base.float()
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    for model in models:
        tau = model.float() - start
        if rank and tau.any():
            left, values, right = svd(tau, name)
            # Copies: views would keep the whole factors alive.
            kept.append((left[:, :rank].clone(), values[:rank].clone(), right[:rank].clone()))
            del left, values, right
        del tau
    if not kept:
        return None
    lefts, all_values, rights = (list(factors) for factors in zip(*kept, strict=True))
    scaled = polar(torch.cat(lefts, dim=1), name) * torch.cat(all_values)
    return scaled @ polar(torch.cat(rights), name)


def truncated(base: Tensor, model: Tensor, rank: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """The first ``rank`` singular triplets of ``τ = θ − θ0``: float32 U [m, k], S [k] and Vᴴ [k, n], contiguous."""
    left, values, right = svd(model.float() - base.float(), name)
    kept = (left[:, :rank], values[:rank], right[:rank])
    first, middle, last = (factor.clone(memory_format=torch.contiguous_format) for factor in kept)
    return first, middle, last


def restored(base: Tensor, left: Tensor, values: Tensor, right: Tensor) -> Tensor:
    """``θ0 + U·diag(S)·Vᴴ``, in float32."""
    return base.float() + (left * values) @ right


def regression_mean(
    models: Sequence[Tensor], grams: Sequence[Tensor], weights: Sequence[float], off_diagonal: float, jitter: float,
    name: str,
) -> Tensor:  # fmt: skip
    """``Wᵀ = (Σ w_i·G_i)⁻¹·Σ w_i·G_i·W_iᵀ`` by a Cholesky factor, in float64.

    The jitter is added to the diagonal of each G_i on both sides, so that inputs which no task uses get the average of
    the tasks' weights. Where the sum is not positive definite in spite of it, as rounded Gram matrices can make it, ten
    times as much is added, and so on.

    Args:
        models: W_i, [out, in] each, any floating dtype.
        grams: G_i, [in, in] each.
        weights: w_i.
        off_diagonal: factor of all entries of G_i but its diagonal.
        jitter: a share of the mean diagonal entry of all G_i, zero or more.
        name: of the tensor, for errors.

    Returns:
        float64 [out, in].

    Raises:
        InputError: the sum is far from positive definite, as with negative weights.
    """
    mean = torch.stack([gram.diagonal().double().mean() for gram in grams]).mean().item() or 1.0
    for share in _jitters(jitter):
        total = torch.zeros_like(grams[0], dtype=torch.float64)
        for gram, weight in zip(grams, weights, strict=True):
            total += _prepared(gram, off_diagonal, share * mean) * weight
        factor, problem = torch.linalg.cholesky_ex(total)
        if not problem.item():
            break
    else:
        raise InputError(
            f"{name!r}: the sum of its Gram matrices is not positive definite; are these Gram matrices, and the "
            "weights positive?"
        )
    del total
    answers = torch.zeros(models[0].T.shape, dtype=torch.float64, device=models[0].device)
    for model, gram, weight in zip(models, grams, weights, strict=True):
        answers += _prepared(gram, off_diagonal, share * mean) @ (model.double().T * weight)
    return torch.cholesky_solve(answers, factor).T


def _jitters(first: float) -> Iterator[float]:
    """What is added in one attempt after another: what was asked for, then tenfold each time, up to 1."""
    yield first
    share = max(first * _MORE_JITTER, _LEAST_JITTER)
    while share <= 1.0:
        yield share
        share *= _MORE_JITTER


def _prepared(gram: Tensor, off_diagonal: float, added: float) -> Tensor:
    """A Gram matrix in float64, its off-diagonals scaled, and something added to its diagonal."""
    scaled = gram.double() * off_diagonal
    scaled.diagonal().copy_(gram.diagonal().double() + added)
    return scaled
