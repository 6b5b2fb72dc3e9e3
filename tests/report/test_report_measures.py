"""Selections, norms and angles, taken from files in tiles, against whole tensors in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sta_kernels
from sta_kernels.checkpoint import ImportanceMetadata
from sta_kernels.engine.manifest import read_manifest
from sta_kernels.errors import InputError
from sta_kernels.kernels.reference.sta_merge import rank_mask_literal
from sta_kernels.methods.statistics import Summary
from sta_kernels.report import measures
from sta_kernels.report.measures import Measured, measure
from sta_kernels.report.sections import total


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leaf each, so that most tensors are cut."""
    monkeypatch.setattr(measures, "_HELD", 1)


def measured_of(out: Path) -> dict[str, Measured]:
    manifest = read_manifest(out)
    assert manifest is not None
    return measure(manifest, out)


def masks(family: Any, name: str) -> np.ndarray[Any, Any]:
    """Who keeps what at p = 0.7: the greatest of three."""
    rows = torch.stack([importance[name].flatten() for importance in family.importances])
    least, greatest = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    return rank_mask_literal(((rows - least) / (greatest - least)).numpy(), 2)


@pytest.mark.usefixtures("small_tiles")
def test_sums_are_those_of_whole_tensors(family: Any, merged: Path):
    found, result = measured_of(merged), load_file(merged / "model.safetensors")
    assert list(found) == list(read_manifest_names(merged))
    for name, each in found.items():
        base = family.base[name].double().flatten()
        vectors = [model[name].double().flatten() - base for model in (*family.models, result)]
        gram = torch.stack(vectors) @ torch.stack(vectors).T
        np.testing.assert_allclose(each.gram, gram.numpy(), rtol=1e-4, atol=1e-4)
        assert each.base == pytest.approx(float(base @ base), rel=1e-6)
        taus = torch.stack(vectors[:-1])
        assert each.cancelled == pytest.approx(float(1 - taus.sum(0).abs().sum() / taus.abs().sum()), abs=1e-5)
        chosen = masks(family, name).astype(np.int64)
        assert each.shared is not None
        np.testing.assert_array_equal(each.shared, chosen @ chosen.T)


def read_manifest_names(out: Path) -> list[str]:
    manifest = read_manifest(out)
    assert manifest is not None
    return [record["name"] for record in manifest.tensors]


def test_closeness_is_the_mean_of_dropped_over_kept(family: Any, merged: Path):
    rows = torch.stack([importance["embed"].flatten() for importance in family.importances]).double()
    least, greatest = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    ranked = ((rows - least) / (greatest - least)).sort(0).values
    assert measured_of(merged)["embed"].closeness == pytest.approx(float((ranked[1] / ranked[2]).mean()), rel=1e-5)


# The measurement holds its own counts against the manifest's: whatever decides a selection is repeated exactly.
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    "keys",
    [
        {"parameters": {"p": 0.3}},
        {"parameters": {"normalise": "mean", "keep": 2}},
        {"parameters": {"scope": "block"}},
        {"parameters": {"scope": "block", "normalise": "mean"}},
        {"parameters": {"measure": "amp"}},
        {"parameters": {"measure": "lp_amp", "ties": "all", "weight": 0.5}},
        {"split": {"*.in_proj_weight": 3}, "dtype": "bfloat16", "exclude": ["embed"]},
    ],
    ids=str,
)
def test_selections_are_the_merges_own(family: Any, tmp_path: Path, keys: dict[str, Any]):
    out = family.merge(tmp_path / "out", **keys)
    found = measured_of(out)
    assert list(found) == read_manifest_names(out)
    assert all(each.shared is not None and np.diag(each.shared).sum() for each in found.values())


def test_ranges_that_a_file_carries_are_not_read_for(family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = type(family)(tmp_path / "own")
    for i, importance in enumerate(own.importances):
        statistics = {n: Summary(float(x.min()), float(x.max()), float(x.mean())) for n, x in importance.items()}
        metadata = ImportanceMetadata("lp", 32, "0" * 32, "0.1.0", statistics).to_metadata()
        save_file(importance, own.folder / f"task{i}" / "importance.safetensors", metadata=metadata)
    out = own.merge(tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(measures, "update_together", None)
        found = measured_of(out)
    assert np.diag(found["embed"].shared).sum() == family.base["embed"].numel()


@pytest.mark.parametrize("method", ["ties", "task_arithmetic", "model_stock", "dare_linear"])
def test_other_methods_have_vectors_and_no_selections(family: Any, tmp_path: Path, method: str):
    found = measured_of(family.merge(tmp_path / "out", method))
    whole = total(found.values())
    assert whole.shared is None
    assert whole.closeness is None
    assert whole.norms.all()
    if method == "task_arithmetic":  # of task vectors of equal lengths at right angles
        assert whole.cosines[-1, :-1] == pytest.approx([3**-0.5] * 3, abs=0.02)


def test_a_model_that_is_the_base_has_no_angle(family: Any, tmp_path: Path):
    recipe = family.recipe("task_arithmetic")
    (tmp_path / "same").mkdir()
    save_file(family.base, tmp_path / "same" / "model.safetensors")
    recipe["models"][0] = {"model": str(tmp_path / "same")}
    with pytest.warns(UserWarning, match="equals the base"):
        sta_kernels.merge_checkpoints(recipe, tmp_path / "out")
    whole = total(measured_of(tmp_path / "out").values())
    assert whole.norms[0] == 0
    assert np.isnan(whole.cosines[0]).all()


def changed(family: Any, tmp_path: Path) -> tuple[Any, Path]:
    """A family and a merge of its own."""
    own = type(family)(tmp_path / "own")
    return own, own.merge(tmp_path / "out")


def test_inputs_that_are_gone_or_changed_are_refused(family: Any, tmp_path: Path):
    own, out = changed(family, tmp_path)
    file = own.folder / "task1" / "model.safetensors"
    content, dates = file.read_bytes(), file.stat()
    file.write_bytes(content)  # another date, the same bytes
    assert measured_of(out)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=r"task1/model\.safetensors: has changed"):
        measured_of(out)
    save_file({**own.models[1], "more": own.models[1]["embed"].clone()}, file)
    os.utime(file, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    with pytest.raises(InputError, match=r"task1/model\.safetensors: has changed"):
        measured_of(out)
    file.unlink()
    with pytest.raises(InputError, match="task1"):
        measured_of(out)


def test_a_result_that_changed_is_refused(family: Any, tmp_path: Path):
    out = family.merge(tmp_path / "out")
    with open(out / "model.safetensors", "ab") as stream:
        stream.write(b" ")
    with pytest.raises(InputError, match="not those that the merge wrote"):
        measured_of(out)


def test_counts_that_the_inputs_do_not_give_are_refused(family: Any, tmp_path: Path):
    out = family.merge(tmp_path / "out")
    manifest = read_manifest(out)
    assert manifest is not None
    manifest.tensors[0]["kept"][1] += 1
    with pytest.raises(InputError, match="do not give what the manifest counted"):
        measure(manifest, out)


def test_methods_without_a_base_have_no_task_vectors(family: Any, tmp_path: Path):
    with pytest.raises(InputError, match="was given no base"):
        measured_of(family.merge(tmp_path / "out", "linear", parameters={"weight": 1.0}))


def test_progress_ends_with_all_bytes(merged: Path):
    told: list[tuple[str, int, int]] = []
    manifest = read_manifest(merged)
    assert manifest is not None
    measure(manifest, merged, lambda *said: told.append(said))
    assert told[-1][1] == told[-1][2] > 0
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
