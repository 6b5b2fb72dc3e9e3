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
from sta_kernels.checkpoint import Checkpoint, ImportanceMetadata
from sta_kernels.engine.manifest import read_manifest
from sta_kernels.errors import InputError
from sta_kernels.kernels import get_backend
from sta_kernels.kernels.reference.sta_merge import normalise_exact, rank_mask_literal
from sta_kernels.methods.statistics import Summary
from sta_kernels.report import measures
from sta_kernels.report.measures import Measured, measure
from sta_kernels.report.sections import total
from sta_kernels.report.selection import selected


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
        assert each.chosen is not None
        np.testing.assert_array_equal(each.chosen, np.bincount(chosen.sum(0), minlength=4))


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


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("keys", [{}, {"parameters": {"measure": "amp"}}, {"parameters": {"scope": "block"}}], ids=str)
def test_progress_is_told_of_everything_that_is_read(
    family: Any, tmp_path: Path, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """Of the pass over the importances too, by which they are normalised."""
    out = family.merge(tmp_path / "out", **keys)
    manifest = read_manifest(out)
    assert manifest is not None
    told: list[tuple[str, int, int]] = []
    read: list[int] = []
    original = Checkpoint.read_into

    def counted(self: Checkpoint, name: str, start: int, view: Any) -> None:
        read.append(len(view))
        original(self, name, start, view)

    monkeypatch.setattr(Checkpoint, "read_into", counted)
    measure(manifest, out, lambda *said: told.append(said))
    assert {total for _, _, total in told} == {sum(read)}
    assert told[-1][1] == sum(read)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_sums_do_not_depend_on_threads(merged: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measures, "_HELD", 1)
    found = []
    for threads in (1, 5):
        monkeypatch.setattr(measures, "default_threads", lambda threads=threads: threads)
        found.append(measured_of(merged))
    for name, one in found[0].items():
        other = found[1][name]
        np.testing.assert_array_equal(one.gram, other.gram)
        assert (one.base, one.mass, one.left, one.dispute) == (other.base, other.mass, other.left, other.dispute)


@pytest.mark.parametrize("ties", ["drop", "all", "first"])
@pytest.mark.parametrize("n_tasks", [1, 4, 24, 25, 60])
def test_selections_by_the_merges_kernel(n_tasks: int, ties: str):
    """Against the definition, with ties, NaN and infinities; in more than one call where there are many tasks."""
    draw = np.random.default_rng(n_tasks)
    importances = draw.integers(0, 9, (n_tasks, 500)).astype(np.float32)
    importances[draw.random(importances.shape) < 0.02] = np.nan
    importances[draw.random(importances.shape) < 0.02] = np.inf
    table = np.stack([draw.random(n_tasks), 1 + draw.integers(0, 2, n_tasks)], axis=1).astype(np.float32)
    table[0, 1] = 0
    scores = normalise_exact(importances, table[:, 0], table[:, 1])
    for k in (0, n_tasks // 2, n_tasks):
        expected = rank_mask_literal(scores, k, ties)
        np.testing.assert_array_equal(selected(get_backend(), importances, table, k, ties), expected)
