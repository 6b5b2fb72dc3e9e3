"""What merging wants to know of a model on its data: hooks, measures, importance files.

Taylor importance (eq. 10–12, 21, 22), mean gradients, Fisher information, Gram matrices.
"""

from __future__ import annotations

from sta_kernels.taylor.fisher import FisherInformation
from sta_kernels.taylor.gram import GramMatrices
from sta_kernels.taylor.hooks import TaylorImportance
from sta_kernels.taylor.result import Importance
from sta_kernels.taylor.samples import importance

__all__ = ["FisherInformation", "GramMatrices", "Importance", "TaylorImportance", "importance"]
