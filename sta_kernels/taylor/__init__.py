"""Taylor importance of a fine-tuned model's parameters (eq. 10–12, 21, 22): hooks, measures, importance files."""

from __future__ import annotations

from sta_kernels.taylor.hooks import TaylorImportance
from sta_kernels.taylor.result import Importance
from sta_kernels.taylor.samples import importance

__all__ = ["Importance", "TaylorImportance", "importance"]
