"""Model Stock (arXiv 2403.19522): as far from the base as the task vectors agree."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from sta_kernels.kernels.reference.literal.common import Array, task_vectors

_POLE = 1e-6


def cosine_literal(tau: Array, floor: float = 0.0) -> float:
    """Mean over the pairs of ``τ_i·τ_j / max(‖τ_i‖·‖τ_j‖, floor)``, 0 for a pair whose norms are 0.

    Args:
        tau: τ_i, [N, n], N ≥ 2.
        floor: mergekit's is 1e-6, which makes small task vectors look orthogonal.

    Returns:
        c in [−1, 1].

    Raises:
        ValueError: fewer than two tasks.
    """
    if len(tau) < 2:
        raise ValueError(f"{len(tau)} task: an angle needs two")
    cosines = []
    for a, b in combinations(tau, 2):
        size = max(np.linalg.norm(a) * np.linalg.norm(b), floor)
        cosines.append(np.clip(a @ b / size, -1.0, 1.0) if size > 0 else 0.0)
    return float(np.mean(cosines))


def ratio_literal(cosine: float, n_tasks: int, clamp: bool = True) -> float:
    """``t = N·c/(1 + (N − 1)·c)``.

    Args:
        cosine: c.
        n_tasks: N.
        clamp: c to [0, 1]: otherwise a negative one leads beyond the base, without bound near ``c = −1/(N − 1)``.

    Returns:
        t; 0 within 1e-6 of that pole.
    """
    cosine = min(max(cosine, 0.0), 1.0) if clamp else cosine
    divisor = 1 + (n_tasks - 1) * cosine
    return 0.0 if abs(divisor) < _POLE else n_tasks * cosine / divisor


def model_stock_literal(
    base: Array, finetuned: Array, filter_wise: bool = False, clamp: bool = True, floor: float = 0.0
) -> Array:
    """``θ0 + t·mean τ_i``.

    Args:
        base: θ0, one tensor.
        finetuned: θ_i, [N, ...], N ≥ 2.
        filter_wise: a t for every row along the last axis; else one for the tensor.
        clamp: see :func:`ratio_literal`; mergekit does not.
        floor: see :func:`cosine_literal`.

    Returns:
        float64 [...].

    Raises:
        ValueError: fewer than two tasks.
    """
    base, tau = task_vectors(base, finetuned)
    width = base.shape[-1] if filter_wise and base.ndim else base.size
    rows = tau.reshape(len(tau), -1, width)  # [N, rows, width]
    cosines = [cosine_literal(rows[:, row], floor) for row in range(rows.shape[1])]
    ratios = np.array([ratio_literal(c, len(tau), clamp) for c in cosines])
    return base + (ratios[:, None] * rows.mean(axis=0)).reshape(base.shape)
