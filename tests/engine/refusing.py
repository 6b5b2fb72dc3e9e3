"""Files that are changed, and merges that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sta_kernels.checkpoint import ImportanceMetadata
from sta_kernels.engine import merge_checkpoints
from sta_kernels.errors import InputError
from sta_kernels.methods.statistics import Summary


def change(path: Path, **tensors: torch.Tensor | None) -> None:
    """Replace, add or (None) remove tensors of a file."""
    stored = load_file(path)
    for name, tensor in tensors.items():
        if tensor is None:
            del stored[name.replace("__", ".")]
        else:
            stored[name.replace("__", ".")] = tensor
    save_file(stored, path, metadata={"format": "pt"})


def refused(recipe: Any, out: Path, *parts: str, **keywords: Any) -> None:
    with pytest.raises(InputError) as caught:
        merge_checkpoints(recipe, out, **keywords)
    for part in parts:
        assert part in str(caught.value)


def described(path: Path, change: Any, claim: Any = None) -> None:
    """Give an importance file statistics, then change its tensors and carry the metadata along."""
    stored = load_file(path)
    table = {
        name: claim or Summary(x.min().item(), x.max().item(), float(x.float().mean()))
        for name, x in stored.items()
        if x.numel()
    }
    metadata = ImportanceMetadata("lp", 32, "0" * 32, "0", table).to_metadata()
    save_file({name: change(x) for name, x in stored.items()}, path, metadata=metadata)
