"""Parameter competition balancing (arXiv 2410.02396): scores from each task's own magnitudes and from their agreement.

==============  ==============================================================================
``variant``     1, 2 or 3: the form of the agreement, as in the three official scripts
``shared``      λ
``per_model``   lower and upper clip of |τ_i|, w_i, least and greatest score (by which S_i is normalised)
``integers``    for a score alone: the task
==============  ==============================================================================
"""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.dtypes import Array
from sta_kernels.kernels.reference.elementary import exp_exact, tanh_exact
from sta_kernels.kernels.reference.formulas.arguments import Arguments, ordered_sum, quotient

LEAST_SUM = np.float32(1e-12)


def _clipped(given: Arguments) -> tuple[Array, Array, Array]:
    """Signs of τ, magnitudes clipped to their quantiles, and these normalised to [0, 1] (0 where there is no range)."""
    lower, upper = given.per_model[:, :1], given.per_model[:, 1:2]
    sign = np.sign(given.tau)
    clipped = np.minimum(np.maximum(np.abs(given.tau), lower), upper)
    span = upper - lower
    return sign, clipped, np.where(span == 0, np.float32(0), quotient(clipped - lower, span))


def _score(given: Arguments, task: int, sign: Array, normal: Array) -> Array:
    """``β_i = RN(exp(N·(m² − 1))·agreement)``: the official ``exp(N·m²)`` times a constant, which S_i does not see."""
    tau = given.tau
    count = np.float32(len(tau))
    own = exp_exact(count * (normal[task] * normal[task] - np.float32(1)))
    signed = sign * normal
    if given.variant[0] == 1:
        agreement = tanh_exact(tau[task] * ordered_sum(tau))
    elif given.variant[0] == 2:
        agreement = tanh_exact(tau[task] * ordered_sum(signed))
    else:
        agreement = ordered_sum(np.stack([tanh_exact(signed[task] * other) for other in signed]))
    return own * agreement


def pcb_score_exact(given: Arguments) -> Array:
    """``β`` of one task."""
    sign, _, normal = _clipped(given)
    return _score(given, given.integers[0], sign, normal)


def pcb_exact(given: Arguments) -> Array:
    """``δ = RN(λ·RN(Σ RN(RN(w_i·a_i)·S_i) / max(Σ S_i, 1e-12)))`` with a_i the clipped τ_i, both sums in order.

    ``S_i = (max(β_i, least) − least)/(greatest − least)``, 0 where these are equal, no more than 1.
    """
    sign, clipped, normal = _clipped(given)
    scores = []
    for task in range(len(given.models)):
        least, greatest = given.per_model[task, 3:]
        span = greatest - least
        above = np.minimum(np.maximum(_score(given, task, sign, normal), least), greatest) - least
        scores.append(np.zeros_like(above) if span == 0 else above / span)
    balanced = np.stack(scores)
    total = ordered_sum((given.per_model[:, 2:3] * (sign * clipped)) * balanced)
    return given.shared[0] * (total / np.maximum(ordered_sum(balanced), LEAST_SUM))


FORMULAS = {"pcb": pcb_exact, "pcb_score": pcb_score_exact}
DELTAS = ("pcb",)
