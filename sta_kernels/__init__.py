"""Merge fine-tuned checkpoints with Selective Task Arithmetic (arXiv 2411.16139).

The public names are imported on first use, so that ``import sta_kernels`` costs nothing and a merge from disk to
disk on a CPU never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sta_kernels._version import __version__

if TYPE_CHECKING:
    from sta_kernels import ops
    from sta_kernels.adamerging import AdaMerging, ties_selected
    from sta_kernels.compression import compress, decompress
    from sta_kernels.engine import Manifest, Plan, merge_checkpoints, verify
    from sta_kernels.errors import InputError, RunError
    from sta_kernels.merging import forget, merge
    from sta_kernels.recipe import Recipe
    from sta_kernels.tall import restore_task, tall_masks
    from sta_kernels.taylor import FisherInformation, GramMatrices, TaylorImportance, importance

__all__ = [
    "AdaMerging",
    "FisherInformation",
    "GramMatrices",
    "InputError",
    "Manifest",
    "Plan",
    "Recipe",
    "RunError",
    "TaylorImportance",
    "__version__",
    "compress",
    "decompress",
    "forget",
    "importance",
    "merge",
    "merge_checkpoints",
    "ops",
    "restore_task",
    "tall_masks",
    "ties_selected",
    "verify",
]

_HOME = {
    "AdaMerging": "adamerging",
    "FisherInformation": "taylor",
    "GramMatrices": "taylor",
    "InputError": "errors",
    "Manifest": "engine",
    "Plan": "engine",
    "Recipe": "recipe",
    "RunError": "errors",
    "TaylorImportance": "taylor",
    "compress": "compression",
    "decompress": "compression",
    "forget": "merging",
    "importance": "taylor",
    "merge": "merging",
    "merge_checkpoints": "engine",
    "restore_task": "tall",
    "tall_masks": "tall",
    "ties_selected": "adamerging",
    "verify": "engine",
}


def __getattr__(name: str) -> Any:
    if name == "ops":
        return importlib.import_module("sta_kernels.ops")
    if name not in _HOME:
        raise AttributeError(f"module 'sta_kernels' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sta_kernels.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
