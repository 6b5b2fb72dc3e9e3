"""Importance of each weight: Taylor (eq. 10–12), amplitude (eq. 21), and both (eq. 22)."""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.dtypes import Array


def first_order_literal(theta: Array, gradient: Array) -> Array:
    """First-order loss change of one sample when a weight is set to zero, ``|θ·g|`` (eq. 10, 11).

    Args:
        theta: weights, any shape.
        gradient: of one sample's loss, same shape.

    Returns:
        float64, same shape.
    """
    return np.abs(np.asarray(theta, np.float64) * np.asarray(gradient, np.float64))


def lp_literal(theta: Array, gradients: Array) -> Array:
    """Taylor importance, ``I = Σ_j |θ·g_j|`` (eq. 12); the absolute value is taken per sample.

    Args:
        theta: weights, […].
        gradients: [samples, …].

    Returns:
        float64 […].
    """
    return np.sum([first_order_literal(theta, gradient) for gradient in gradients], axis=0)


def amp_literal(theta: Array) -> Array:
    """Amplitude importance, ``I = θ²`` of the fine-tuned weight (eq. 21).

    Args:
        theta: weights, any shape.

    Returns:
        float64, same shape.
    """
    return np.asarray(theta, np.float64) ** 2


def lp_amp_literal(theta: Array, gradients: Array) -> Array:
    """Mixed importance, ``I = Σ_j |θ·g_j| · θ²`` (eq. 22).

    Args:
        theta: weights, […].
        gradients: [samples, …].

    Returns:
        float64 […].
    """
    return lp_literal(theta, gradients) * amp_literal(theta)


def accumulate_exact(total: Array, gradient: Array) -> Array:
    """One sample more: ``S = RN(S + |g|)``, in sample order.

    θ is the same for every sample, so it is multiplied once, in :func:`lp_exact`.

    Args:
        total: float32, any shape.
        gradient: float32, same shape.

    Returns:
        float32, same shape.
    """
    return total + np.abs(gradient)


def lp_exact(theta: Array, total: Array) -> Array:
    """Taylor importance from the accumulated gradients, ``RN(|θ|·S)`` (eq. 12).

    Args:
        theta: float32, any shape.
        total: S of :func:`accumulate_exact`, same shape.

    Returns:
        float32, same shape.
    """
    return np.abs(theta) * total


def amp_exact(theta: Array) -> Array:
    """Amplitude importance, ``RN(θ·θ)`` (eq. 21).

    Args:
        theta: float32, any shape.

    Returns:
        float32, same shape.
    """
    return theta * theta


def lp_amp_exact(lp: Array, theta: Array) -> Array:
    """Mixed importance, ``RN(LP · RN(θ·θ))`` (eq. 22).

    Args:
        lp: Taylor importance, float32, any shape.
        theta: float32, same shape.

    Returns:
        float32, same shape.
    """
    return lp * amp_exact(theta)


def measure_exact(measure: str, lp: Array | None, theta: Array | None) -> Array:
    """Importance by the name of its measure.

    Args:
        measure: ``lp``, ``amp`` or ``lp_amp``.
        lp: Taylor importance, float32; ``amp`` reads none.
        theta: fine-tuned weights, float32, same shape; ``lp`` reads none.

    Returns:
        float32, same shape.

    Raises:
        ValueError: an unknown measure, or an operand that the measure reads is missing.
    """
    if measure == "lp" and lp is not None:
        return lp
    if measure == "amp" and theta is not None:
        return amp_exact(theta)
    if measure == "lp_amp" and lp is not None and theta is not None:
        return lp_amp_exact(lp, theta)
    raise ValueError(f"measure {measure!r}: expected 'lp', 'amp' or 'lp_amp' with the operands that it reads")
