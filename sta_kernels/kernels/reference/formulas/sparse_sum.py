"""Sums of sparsified task vectors, with or without an elected sign: TIES, DARE, Breadcrumbs, DELLA.

Per task, a gate keeps entries of τ_i: all of them; a band of magnitudes; those that a random draw keeps; or those at
which a stored mask m_i is not 0. What is kept is rescaled and weighted, ``d_i = RN(w_i·RN(s_i·τ_i))``, and 0 elsewhere;
with a mask, ``RN(m_i·τ_i)`` stands for τ_i.

=============  ==============================================================================
``variant``    gate (one of ``GATES``' positions), sign election (0 or 1), normalise (0 or 1)
``shared``     λ, divisor, zero sign
``per_model``  w_i, s_i, upper threshold, lower threshold
``integers``   seed, hash of the tensor's name; then per model: upper cut, lower cut, 2³²·density, task
=============  ==============================================================================

An entry is *above* (threshold t, cut c) where ``|τ| > t``, or ``|τ| = t`` at an index below c: so a trim keeps an exact
number of entries, among equals the first. A band keeps what is above its lower pair and not above its upper one.
"""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.dtypes import Array
from sta_kernels.kernels.reference.formulas.arguments import Arguments, ordered_sum, quotient
from sta_kernels.kernels.reference.philox import draws_exact

GATES = ("all", "band", "random", "mask")
_SHARED_INTEGERS, _INTEGERS_PER_MODEL = 2, 4


def above_exact(magnitude: Array, index: Array, threshold: np.float32, cut: int) -> Array:
    """Greater than the threshold, or equal to it at an index below the cut; bool [n]."""
    return (magnitude > threshold) | ((magnitude == threshold) & (index < cut))


def gated_exact(given: Arguments, task: int) -> Array:
    """Which entries of one task's vector its gate keeps; bool [n]."""
    gate = GATES[given.variant[0]]
    seed, tensor = given.integers[:_SHARED_INTEGERS]
    start = _SHARED_INTEGERS + task * _INTEGERS_PER_MODEL
    upper_cut, lower_cut, kept, number = given.integers[start : start + _INTEGERS_PER_MODEL]
    if gate == "band":
        magnitude, (upper, lower) = np.abs(given.tau[task]), given.per_model[task, 2:]
        inside = above_exact(magnitude, given.index, lower, lower_cut)
        return inside & ~above_exact(magnitude, given.index, upper, upper_cut)
    if gate == "random":
        return draws_exact(seed, tensor, number, given.index) < np.uint64(kept)
    if gate == "mask":
        return given.importances[task] != 0
    return np.ones(given.index.shape, np.bool_)


def sparse_exact(given: Arguments) -> Array:
    """``d_i = RN(w_i·RN(s_i·τ_i))`` where the gate keeps it, +0 elsewhere; float32 [N, n]."""
    tau = given.importances * given.tau if GATES[given.variant[0]] == "mask" else given.tau
    terms = given.per_model[:, :1] * (given.per_model[:, 1:2] * tau)
    kept = np.stack([gated_exact(given, task) for task in range(len(given.models))])
    return np.where(kept, terms, np.float32(0))


def elected_exact(terms: Array, zero_sign: np.float32) -> Array:
    """Sign of the sum over the tasks, ``zero_sign`` where that is 0; float32 [n] of −1, 0 and 1."""
    total = ordered_sum(terms)
    return np.where(total > 0, np.float32(1), np.where(total < 0, np.float32(-1), zero_sign))


def sparse_sum_exact(given: Arguments) -> Array:
    """``δ = RN(λ·s)``, s the sum of d_i in order, of the elected sign where one is elected, divided where asked for.

    With an election, d_i that are 0 take part in neither sign, and the divisor is the sum of w_i over those that take
    part, in order; 0 counts as 1. Without one it is a parameter.
    """
    _, elects, normalises = given.variant
    lambda_, divisor, zero_sign = given.shared
    terms = sparse_exact(given)
    if not elects:
        return lambda_ * quotient(ordered_sum(terms), divisor)
    sign = elected_exact(terms, zero_sign)
    agreeing = np.where(sign > 0, terms > 0, (terms < 0) & (sign < 0))
    total = ordered_sum(np.where(agreeing, terms, np.float32(0)))
    if normalises:
        total = quotient(total, ordered_sum(np.where(agreeing, given.per_model[:, :1], np.float32(0))))
    return lambda_ * total


def elected_sign_exact(given: Arguments) -> Array:
    """The elected sign, as :func:`sparse_sum_exact` uses it."""
    return elected_exact(sparse_exact(given), given.shared[2])


def sparse_distance_exact(given: Arguments) -> Array:
    """``|τ|`` of the one model where its gate keeps it, +0 elsewhere."""
    return np.where(gated_exact(given, 0), np.abs(given.tau[0]), np.float32(0))


def distance_exact(given: Arguments) -> Array:
    """``|τ|`` of the one model."""
    return np.abs(given.tau[0])


FORMULAS = {
    "sparse_sum": sparse_sum_exact,
    "elected_sign": elected_sign_exact,
    "sparse_distance": sparse_distance_exact,
    "distance": distance_exact,
}
DELTAS = ("sparse_sum",)
