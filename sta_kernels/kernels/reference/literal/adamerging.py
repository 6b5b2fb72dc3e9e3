"""AdaMerging (arXiv 2310.02575): coefficients per task, or per task and tensor, that make predictions certain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sta_kernels.kernels.reference.literal.common import Array, task_vectors


def combine_tensors_literal(
    base: Sequence[Array], finetuned: Sequence[Array], coefficients: Array, clamp: bool = True
) -> list[Array]:
    """``θ^l = θ0^l + Σ_i λ_i^l·τ_i^l``, λ clamped to [0, 1].

    Args:
        base: θ0^l, [...] for each of the L tensors.
        finetuned: θ_i^l, [N, ...] for each.
        coefficients: λ: [N], shared by all tensors, or [N, L].
        clamp: to [0, 1].

    Returns:
        float64 [...] for each tensor.
    """
    lambdas = _spread(coefficients, len(base))
    lambdas = np.clip(lambdas, 0.0, 1.0) if clamp else lambdas
    merged = []
    for theta, models, column in zip(base, finetuned, lambdas.T, strict=True):
        start, tau = task_vectors(theta, models)
        merged.append(start + np.tensordot(column, tau, axes=1))
    return merged


def gradient_literal(
    base: Sequence[Array],
    finetuned: Sequence[Array],
    coefficients: Array,
    gradients: Sequence[Array],
    clamp: bool = True,
) -> Array:
    """``∂L/∂λ_i^l = ⟨∂L/∂θ^l, τ_i^l⟩``, summed over the tensors that share a coefficient.

    Args:
        base: θ0^l, [...] for each of the L tensors.
        finetuned: θ_i^l, [N, ...] for each.
        coefficients: λ: [N] or [N, L].
        gradients: ∂L/∂θ^l, [...] for each tensor, at the combined parameters.
        clamp: λ is clamped to [0, 1]: no gradient outside; on the bounds themselves it passes, as torch has it.

    Returns:
        float64, the shape of the coefficients.
    """
    lambdas = _spread(coefficients, len(base))
    products = np.empty_like(lambdas)
    for layer, (theta, models, gradient) in enumerate(zip(base, finetuned, gradients, strict=True)):
        _, tau = task_vectors(theta, models)
        products[:, layer] = np.tensordot(tau, np.asarray(gradient, np.float64), axes=np.ndim(theta))
    if clamp:
        products = np.where((lambdas >= 0) & (lambdas <= 1), products, 0.0)
    return products if np.ndim(coefficients) == 2 else products.sum(axis=1)


def entropy_literal(logits: Array) -> Array:
    """Entropy of each prediction, ``H = −Σ_y p_y·log p_y`` with ``p = softmax(logits)``, in nats.

    Args:
        logits: [..., classes].

    Returns:
        float64 [...].
    """
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return -(np.exp(log_p) * log_p).sum(axis=-1)


def loss_literal(logits: Sequence[Array]) -> float:
    """``L = Σ_tasks mean H``.

    Args:
        logits: [samples, classes] of each task's unlabelled batch.

    Returns:
        The sum.
    """
    return float(sum(entropy_literal(batch).mean() for batch in logits))


def _spread(coefficients: Array, n_tensors: int) -> Array:
    lambdas = np.asarray(coefficients, np.float64)
    return lambdas if lambdas.ndim == 2 else np.repeat(lambdas[:, None], n_tensors, axis=1)
