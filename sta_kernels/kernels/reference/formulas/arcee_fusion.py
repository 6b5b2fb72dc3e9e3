"""Arcee Fusion (mergekit): entries of the other model that changed much, in rows that changed much.

==============  ==============================================================================
``shared``      threshold, of ``arcee_fusion`` only
``importances`` K, the divergence of the entry's row
==============  ==============================================================================
"""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.reference.dtypes import Array
from sta_kernels.kernels.reference.formulas.arguments import Arguments


def arcee_importance_exact(given: Arguments) -> Array:
    """``I = RN(|τ|·K)``."""
    return np.asarray(np.abs(given.tau[0]) * given.importances[0])


def arcee_fusion_exact(given: Arguments) -> Array:
    """``δ = τ`` where I reaches the threshold, else 0."""
    return np.where(arcee_importance_exact(given) >= given.shared[0], given.tau[0], np.float32(0))


FORMULAS = {"arcee_fusion": arcee_fusion_exact, "arcee_importance": arcee_importance_exact}
DELTAS = ("arcee_fusion",)
