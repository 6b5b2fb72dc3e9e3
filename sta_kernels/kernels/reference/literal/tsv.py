"""Task singular vectors (arXiv 2412.00081): TSV-M merges them, TSV-C compresses one task to a few of them."""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.literal.common import Array, Ratio, floor_of, task_vectors


def polar_literal(matrix: Array) -> Array:
    """The nearest matrix with orthonormal rows or columns, ``PQᵀ`` of the thin SVD ``PΣQᵀ``.

    Args:
        matrix: [m, n], of full rank: otherwise it is not unique.

    Returns:
        float64 [m, n].
    """
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return left @ right


def tsv_m_literal(base: Array, finetuned: Array, lambda_: float = 1.0) -> Array:
    """TSV-M of one matrix, ``θ0 + α·polar(U)·diag(S)·polar(V)``.

    U, S and V join the first ``k = ⌊min(m, n)/N⌋`` singular triplets of each τ_i: columns of U, rows of V. For k = 0
    nothing is retained, and the result is θ0.

    Args:
        base: θ0, [m, n].
        finetuned: θ_i, [N, m, n].
        lambda_: α.

    Returns:
        float64 [m, n].
    """
    base, tau = task_vectors(base, finetuned)
    k = min(base.shape) // len(tau)
    if k == 0:
        return base
    factors = [np.linalg.svd(t, full_matrices=False) for t in tau]
    left = np.concatenate([u[:, :k] for u, _, _ in factors], axis=1)  # [m, Nk]
    values = np.concatenate([s[:k] for _, s, _ in factors])  # [Nk]
    right = np.concatenate([v[:k] for _, _, v in factors], axis=0)  # [Nk, n]
    return base + lambda_ * (polar_literal(left) * values) @ polar_literal(right)


def tsv_mean_literal(base: Array, finetuned: Array, lambda_: float = 1.0) -> Array:
    """What TSV-M does to a tensor that is no matrix, or is ``text_projection``: ``θ0 + α·mean τ_i``.

    Args:
        base: θ0, [...].
        finetuned: θ_i, [N, ...].
        lambda_: α.

    Returns:
        float64 [...].
    """
    base, tau = task_vectors(base, finetuned)
    return base + lambda_ * tau.mean(axis=0)


def tsv_c_compress_literal(base: Array, finetuned: Array, ratio: Ratio) -> tuple[Array, Array, Array]:
    """TSV-C of one task's matrix: the first ``k = ⌊ratio·min(m, n)⌋`` singular triplets of τ.

    Args:
        base: θ0, [m, n].
        finetuned: θ of the task, [m, n].
        ratio: 1/N in the paper, best as a fraction: the float 1/3 is less than a third.

    Returns:
        float64 U [m, k], S [k], V [k, n].
    """
    base, tau = task_vectors(base, finetuned)
    k = floor_of(ratio, min(base.shape))
    left, values, right = np.linalg.svd(tau, full_matrices=False)
    return left[:, :k], values[:k], right[:k]


def tsv_c_decompress_literal(base: Array, left: Array, values: Array, right: Array, lambda_: float = 1.0) -> Array:
    """One task restored from its singular triplets, ``θ0 + U·diag(S)·V``.

    Args:
        base: θ0, [m, n].
        left: U, [m, k].
        values: S, [k].
        right: V, [k, n].
        lambda_: of the sum.

    Returns:
        float64 [m, n].
    """
    return np.asarray(base, np.float64) + lambda_ * (left * values) @ right
