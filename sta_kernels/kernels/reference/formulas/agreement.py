"""TALL masks and Consensus (arXiv 2405.07813): the summed task vector where it serves enough of the tasks.

==============  ==============================================================================
``shared``      λ
``per_model``   λ_t, which the mask of task t multiplies the rest by; 1 where its mask is asked for, else 0
``integers``    k, the number of masks that must agree
==============  ==============================================================================
"""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.dtypes import Array
from sta_kernels.kernels.reference.formulas.arguments import Arguments, ordered_sum


def agreement_exact(given: Arguments) -> Array:
    """``δ = RN(λ·τ_M)`` where at least k of the asked masks ``m_t = [|τ_t| > RN(λ_t·|RN(τ_M − τ_t)|)]`` hold, else 0.

    ``τ_M`` is the sum of the task vectors in order.
    """
    tau = given.tau
    total = ordered_sum(tau)
    masks = np.abs(tau) > given.per_model[:, :1] * np.abs(total - tau)
    agreeing = np.count_nonzero(masks & (given.per_model[:, 1:2] != 0), axis=0)
    return np.where(agreeing >= given.integers[0], given.shared[0] * total, np.float32(0))


FORMULAS = {"agreement": agreement_exact}
DELTAS = ("agreement",)
