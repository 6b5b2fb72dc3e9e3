"""PCB-Merging (arXiv 2410.02396): balance each parameter within its task and against the others, drop the rest.

Its official code exists in three versions, which differ in how a parameter is weighed against the other tasks (and
v1 in its clip). v3 is the canonical one here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sta_kernels.kernels.reference.literal.common import (
    Array,
    Ratio,
    floor_of,
    minmax,
    per_task,
    rational,
    task_vectors,
)

_CLIP = {"v1": "0.0001", "v2": "0.01", "v3": "0.01"}


def clip_literal(tau: Array, clip: Ratio) -> Array:
    """``a = clip(|τ|, q_c, q_{1−c})``: sorted |τ| at ``⌊d·c⌋`` and ``trunc(d·(1 − c) − 1)``, counted from 0.

    Args:
        tau: one task's whole model of d entries.
        clip: c.

    Returns:
        Same shape.
    """
    magnitude = np.abs(tau)
    ordered = np.sort(magnitude, axis=None)
    upper = int(tau.size * (1 - rational(clip)) - 1)
    return np.clip(magnitude, ordered[floor_of(clip, tau.size)], ordered[upper])


def scores_literal(tau: Array, ratio: Ratio = 0.05, variant: str = "v3", clip: Ratio | None = None) -> Array:
    """Balancing scores S: ``β = exp(N·minmax(a)²)·inter``, cut at its ``1 − r`` quantile, min-max normalised.

    ``z = sgn(τ)·minmax(a)``; inter is ``tanh(τ_i·Σ_j τ_j)`` (v1), ``tanh(τ_i·Σ_j z_j)`` (v2) or ``Σ_j tanh(z_i·z_j)``
    (v3). ``S = minmax(max(β, sorted(β)[⌊d·(1 − r)⌋]))``, 0 where β has no range above the cut: so also for d ≤ 1/r.

    Args:
        tau: τ_i, [N, ...], whole models.
        ratio: r in (0, 1].
        variant: ``v1``, ``v2`` or ``v3``.
        clip: c; None: that of the variant's code.

    Returns:
        float64 [N, ...], in [0, 1].

    Raises:
        ValueError: an unknown variant.
    """
    if variant not in _CLIP:
        raise ValueError(f"variant {variant!r}: expected 'v1', 'v2' or 'v3'")
    clipped = [clip_literal(t, _CLIP[variant] if clip is None else clip) for t in tau]
    balance = np.stack([minmax(a) for a in clipped])
    signed = np.sign(tau) * balance
    if variant == "v1":
        inter = np.tanh(tau * tau.sum(axis=0))
    elif variant == "v2":
        inter = np.tanh(tau * signed.sum(axis=0))
    else:
        inter = np.stack([np.tanh(z * signed).sum(axis=0) for z in signed])
    beta = np.exp(len(tau) * balance**2) * inter
    cut = min(floor_of(1 - rational(ratio), tau[0].size), tau[0].size - 1)
    return np.stack([minmax(np.maximum(b, np.sort(b, axis=None)[cut])) for b in beta])


def pcb_literal(
    base: Array,
    finetuned: Array,
    ratio: Ratio = 0.05,
    lambda_: float | Sequence[float] = 1.0,
    variant: str = "v3",
    clip: Ratio | None = None,
) -> Array:
    """``θ0 + Σ λ_i·sgn(τ_i)·a_i·S_i / max(Σ S_i, 1e-12)``.

    Args:
        base: θ0, a whole model.
        finetuned: θ_i, [N, ...].
        ratio: r, the share of entries that score.
        lambda_: for all tasks, or one per task.
        variant: see :func:`scores_literal`.
        clip: see :func:`scores_literal`.

    Returns:
        float64 [...].
    """
    base, tau = task_vectors(base, finetuned)
    scores = scores_literal(tau, ratio, variant, clip)
    clipped = np.stack([clip_literal(t, _CLIP[variant] if clip is None else clip) for t in tau])
    total = (per_task(lambda_, tau) * np.sign(tau) * clipped * scores).sum(axis=0)
    return base + total / np.maximum(scores.sum(axis=0), 1e-12)
