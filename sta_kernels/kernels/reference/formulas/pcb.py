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
from sta_kernels.kernels.reference.elementary import exp_exact, tanh_exact, tanh_unit_exact
from sta_kernels.kernels.reference.formulas.arguments import Arguments, ordered_sum

LEAST_SUM = np.float32(1e-12)


def _reciprocal(span: Array) -> Array:
    """``RN(1/span)``, at most the greatest float32; 0 of 0."""
    safe = np.where(span == 0, np.float32(1), span)
    return np.where(span == 0, np.float32(0), np.minimum(np.float32(1) / safe, np.finfo(np.float32).max))


def _signed(size: Array, tau: Array) -> Array:
    """The size with the sign of τ; 0 where that is 0."""
    return np.where(tau == 0, np.float32(0), np.where(tau < 0, -size, size))


def _clipped(given: Arguments) -> tuple[Array, Array]:
    """``a``, which is τ with its magnitude clipped to its quantiles, and ``z``, that normalised to [−1, 1].

    ``|z| = RN(RN(|a| − lower)·RN(1/(upper − lower)))``, 0 where there is no range.
    """
    lower, upper = given.per_model[:, :1], given.per_model[:, 1:2]
    size = np.minimum(np.maximum(np.abs(given.tau), lower), upper)
    return _signed(size, given.tau), _signed((size - lower) * _reciprocal(upper - lower), given.tau)


def _score(given: Arguments, task: int, z: Array) -> Array:
    """``β_i = RN(exp(N·(z² − 1))·agreement)``: the official ``exp(N·z²)`` times a constant, which S_i does not see."""
    tau = given.tau
    own = exp_exact(np.float32(len(tau)) * (z[task] * z[task] - np.float32(1)))
    if given.variant[0] == 1:
        agreement = tanh_exact(tau[task] * ordered_sum(tau))
    elif given.variant[0] == 2:
        agreement = tanh_exact(tau[task] * ordered_sum(z))
    else:
        agreement = ordered_sum(np.stack([tanh_unit_exact(z[task] * other) for other in z]))
    return own * agreement


def pcb_score_exact(given: Arguments) -> Array:
    """``β`` of one task."""
    return _score(given, given.integers[0], _clipped(given)[1])


def pcb_exact(given: Arguments) -> Array:
    """``δ = RN(λ·RN(Σ RN(RN(w_i·a_i)·S_i) / max(Σ S_i, 1e-12)))`` with both sums in order.

    ``S_i = RN(RN(max(β_i, least) − least)·RN(1/(greatest − least)))``, 0 where these are equal, no more than 1.
    """
    clipped, z = _clipped(given)
    scores = []
    for task in range(len(given.models)):
        least, greatest = given.per_model[task, 3:]
        span = greatest - least
        above = np.minimum(np.maximum(_score(given, task, z), least), greatest) - least
        scores.append(np.zeros_like(above) if span == 0 else above * _reciprocal(span))
    balanced = np.stack(scores)
    total = ordered_sum((given.per_model[:, 2:3] * clipped) * balanced)
    return given.shared[0] * (total / np.maximum(ordered_sum(balanced), LEAST_SUM))


FORMULAS = {"pcb": pcb_exact, "pcb_score": pcb_score_exact}
DELTAS = ("pcb",)
