"""Files that say what they hold are taken by methods that want that, and refused by name by others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from refusing import refused
from safetensors.torch import load_file, save_file

from sta_kernels.checkpoint import ImportanceMetadata
from sta_kernels.engine import Manifest, merge_checkpoints

MEASURES = ("lp", "amp", "lp_amp", "gradient", "fisher", "gram")
TAKEN = {
    "sta": ("lp", "amp", "lp_amp"),
    "sta_forget": ("lp", "amp", "lp_amp"),
    "fisher": ("fisher",),
    "tatr": ("gradient",),
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("method", TAKEN)
def test_measure_of_a_file(own: Any, method: str, measure: str, tmp_path: Path):
    recipe, folder = own
    models = recipe["models"][: 1 if method == "sta_forget" else 3]
    recipe = {**recipe, "merge_method": method, "parameters": {}, "models": models}
    path = folder / "model0" / "importance.safetensors"
    save_file(load_file(path), path, metadata=ImportanceMetadata(measure, 32, "0" * 32, "0").to_metadata())
    if measure in TAKEN[method]:
        assert isinstance(merge_checkpoints(recipe, tmp_path / "out"), Manifest)
    else:
        refused(recipe, tmp_path / "out", str(path), f"holds {measure}", f"{method} takes {TAKEN[method][0]}")
