"""What cannot be merged is refused before anything has its final name, naming the file, the tensor and what to do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from refusing import change, described, refused
from safetensors.torch import load_file, save_file

from sta_kernels.checkpoint import ImportanceMetadata
from sta_kernels.engine import Manifest, merge_checkpoints, verify
from sta_kernels.engine.journal import JOURNAL_NAME
from sta_kernels.engine.lock import locked
from sta_kernels.errors import InputError, RunError
from sta_kernels.methods.statistics import Summary


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "is nan at [0, 5]"), (float("-inf"), "is -inf at [0, 5]")])
@pytest.mark.parametrize("file", ["base/model", "model1/model", "model2/importance"])
def test_nonfinite(own: Any, file: str, value: float, said: str, tmp_path: Path) -> None:
    recipe, folder = own
    path = folder / f"{file}.safetensors"
    bad = load_file(path)["layers.1.attn.in_proj_weight"]
    bad[0, 5] = bad[3, 2] = value
    change(path, layers__1__attn__in_proj_weight=bad)
    refused(recipe, tmp_path / "out", str(path), "'layers.1.attn.in_proj_weight'", said)
    assert not (tmp_path / "out").exists()
    result = merge_checkpoints(recipe, tmp_path / "out", allow_nonfinite=True)
    assert isinstance(result, Manifest)


def test_nonfinite_in_the_second_part_of_a_split_tensor_is_placed_in_the_whole(own: Any, tmp_path: Path) -> None:
    recipe, folder = own
    path = folder / "model0" / "model.safetensors"
    bad = load_file(path)["layers.0.attn.in_proj_weight"]
    bad[50, 7] = float("inf")
    change(path, layers__0__attn__in_proj_weight=bad)
    refused({**recipe, "split": {"*.in_proj_weight": 3}}, tmp_path / "out", "is inf at [50, 7]")


def test_overflow_of_float16(own: Any, tmp_path: Path) -> None:
    recipe, folder = own
    for name in ("base", "model0", "model1", "model2"):
        path = folder / name / "model.safetensors"
        large = load_file(path)["layers.0.norm.weight"]
        large[3] = 1e5
        change(path, layers__0__norm__weight=large)
    refused({**recipe, "dtype": "float16"}, tmp_path / "out", "'layers.0.norm.weight' overflows float16 at [3]")


def test_overflow_of_float16_in_what_is_excluded(own: Any, tmp_path: Path) -> None:
    recipe, folder = own
    path = folder / "base" / "model.safetensors"
    large = load_file(path)["layers.0.norm.weight"]
    large[3] = 1e5
    change(path, layers__0__norm__weight=large)
    narrow = {**recipe, "dtype": "float16", "exclude": ["layers.0.norm.weight"]}
    refused(narrow, tmp_path / "out", "'layers.0.norm.weight' overflows float16 at [3]")
    merge_checkpoints(narrow, tmp_path / "out", allow_nonfinite=True)
    large[3] = -torch.inf
    change(path, layers__0__norm__weight=large)
    merge_checkpoints(narrow, tmp_path / "mask")


def test_an_importance_that_overflows(own: Any, tmp_path: Path) -> None:
    recipe, folder = own
    path = folder / "model1" / "model.safetensors"
    large = load_file(path)["layers.0.norm.weight"]
    large[3] = 1e25
    change(path, layers__0__norm__weight=large)
    recipe = {**recipe, "parameters": {"measure": "lp_amp"}}
    refused(recipe, tmp_path / "out", "model1", "'layers.0.norm.weight'", "(lp_amp) overflows float32")
    merge_checkpoints(recipe, tmp_path / "out", allow_nonfinite=True)


@pytest.mark.parametrize("normalise", ["minmax", "mean"])
@pytest.mark.parametrize("change", [lambda x: x * 8, lambda x: x.to(torch.float8_e5m2).to(x.dtype)])
def test_statistics_of_other_tensors(own: Any, change: Any, normalise: str, tmp_path: Path) -> None:
    recipe, folder = own
    recipe = {**recipe, "parameters": {"normalise": normalise}}
    path = folder / "model1" / "importance.safetensors"
    described(path, lambda x: x)
    merge_checkpoints(recipe, tmp_path / "right")
    described(path, change)
    said = "the statistics in its metadata do not describe its tensors; save it again"
    refused(recipe, tmp_path / "out", str(path), said)


def test_statistics_that_are_not_finite_are_computed(own: Any, tmp_path: Path) -> None:
    recipe, folder = own
    merge_checkpoints(recipe, tmp_path / "one")
    nan = float("nan")
    described(folder / "model1" / "importance.safetensors", lambda x: x, Summary(nan, nan, nan))
    merge_checkpoints(recipe, tmp_path / "other")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_missing_and_unknown_tensors(own: Any, tmp_path: Path) -> None:
    recipe, folder = own
    change(folder / "model1" / "model.safetensors", head__scale=None)
    refused(recipe, tmp_path / "out", str(folder / "model1"), "'head.scale'")
    merge_checkpoints({**recipe, "exclude": ["head.*"]}, tmp_path / "out")
    change(folder / "model2" / "model.safetensors", classifier=torch.ones(3))
    refused({**recipe, "exclude": ["head.*"]}, tmp_path / "other", str(folder / "model2"), "'classifier'")


def test_shapes(own: Any, tmp_path: Path) -> None:
    recipe, folder = own
    change(folder / "model1" / "model.safetensors", layers__0__norm__weight=torch.ones(41))
    refused(recipe, tmp_path / "out", str(folder / "model1"), "'layers.0.norm.weight'", "[41]", "[40]")
    refused(recipe, tmp_path / "out", "[40]; to copy the base's, add `exclude: [layers.0.norm.weight]`")
    change(folder / "model1" / "model.safetensors", layers__1__norm__weight=torch.ones(42))
    refused(recipe, tmp_path / "out", "add `exclude: [layers.0.norm.weight, layers.1.norm.weight]`")


def test_importance_of_a_trained_entry(own: Any, tmp_path: Path) -> None:
    recipe, folder = own
    change(folder / "model1" / "importance.safetensors", embed__weight=None)
    refused(recipe, tmp_path / "out", str(folder / "model1"), "'embed.weight'")
    for i in (0, 2):
        change(folder / f"model{i}" / "importance.safetensors", embed__weight=None)
    refused(recipe, tmp_path / "out", "no importance for 'embed.weight'", "has trained")
    base = load_file(folder / "base" / "model.safetensors")["embed.weight"]
    for i in range(3):  # in another dtype, and still the same values
        change(folder / f"model{i}" / "model.safetensors", embed__weight=base.double() if i else base)
    result = merge_checkpoints(recipe, tmp_path / "out")
    assert isinstance(result, Manifest)
    assert "embed.weight" in result.copied
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["embed.weight"], base)


def test_wrong_measure(own: Any, tmp_path: Path) -> None:

    recipe, folder = own
    path = folder / "model1" / "importance.safetensors"
    save_file(load_file(path), path, metadata=ImportanceMetadata("lp_amp", 32, "0" * 32, "0").to_metadata())
    refused({**recipe, "parameters": {"measure": "lp_amp"}}, tmp_path / "out", str(folder / "model1"), "lp_amp")


def test_importance_and_model_in_each_others_place(own: Any, tmp_path: Path) -> None:

    recipe, folder = own
    (tmp_path / "link.safetensors").symlink_to(folder / "model1" / "model.safetensors")
    wrong = {"model": str(folder / "model0"), "parameters": {"importance": str(tmp_path / "link.safetensors")}}
    refused({**recipe, "models": [wrong, *recipe["models"][1:]]}, tmp_path / "out", "are the weights of", dry_run=True)
    path = folder / "model1" / "importance.safetensors"
    save_file(load_file(path), path, metadata=ImportanceMetadata("lp", 32, "0" * 32, "0").to_metadata())
    wrong = {**recipe["models"][1], "model": str(path)}
    swapped = {**recipe, "models": [recipe["models"][0], wrong]}
    refused(swapped, tmp_path / "out", "an importance file, given as a model")


def test_repeated_importance_is_noted_and_adds_nothing(own: Any, tmp_path: Path) -> None:
    recipe, _ = own
    first, second, _ = recipe["models"]
    recipe = {**recipe, "models": [first, {**second, "parameters": first["parameters"]}]}
    plan = merge_checkpoints(recipe, tmp_path / "out", dry_run=True)
    assert any("models 1, 2: the same importance" in note for note in plan.notes)
    with pytest.warns(UserWarning, match="nothing was added: the result is the base"):
        result = merge_checkpoints(recipe, tmp_path / "out")
    assert "nothing was added" in result.notes[-1]
    twice = merge_checkpoints({**recipe, "models": [first, first]}, tmp_path / "other", dry_run=True)
    assert any("models 1, 2: the same model" in note for note in twice.notes)


def test_a_filter_that_matches_nothing_is_noted(own: Any, tmp_path: Path) -> None:
    entries = [{"filter": "attn", "value": 0.4}, {"filter": "mlp", "value": 0.2}, {"value": 0.5}]
    plan = merge_checkpoints({**own[0], "parameters": {"p": entries}}, tmp_path / "out", dry_run=True)
    assert plan.notes == ("p: the filter 'mlp' matches no merged tensor",)


def test_home_is_expanded_in_the_output(own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    merge_checkpoints(own[0], "~/out")
    assert verify("~/out") == []
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_integers_that_differ_and_models_that_do_not(own: Any, tmp_path: Path) -> None:
    recipe, folder = own
    change(folder / "model1" / "model.safetensors", steps=torch.tensor([3, 5]))
    shutil.copyfile(folder / "base" / "model.safetensors", folder / "model2" / "model.safetensors")
    with pytest.warns(UserWarning, match="differs from|equals the base") as caught:
        result = merge_checkpoints(recipe, tmp_path / "out")
    said = [str(warning.message) for warning in caught]
    assert len(said) == 2
    assert "model1: 'steps' differs from" in said[0]
    assert "model2: equals the base" in said[1]
    assert isinstance(result, Manifest)
    assert result.notes[-2:] == tuple(said)


@pytest.mark.parametrize("keywords", [{"device": "cuda"}, {"threads": 0}, {"max_memory": "191MB"},
                                      {"max_memory": "much"}, {"out_shard_size": "0"}])  # fmt: skip
def test_arguments(own: Any, keywords: dict[str, Any], tmp_path: Path) -> None:
    refused(own[0], tmp_path / "out", next(iter(keywords)), **keywords)
    assert not (tmp_path / "out").exists()


def test_output_in_an_input(own: Any, tmp_path: Path) -> None:
    recipe, folder = own
    (tmp_path / "link").symlink_to(folder / "model0")
    for out in (folder / "base", folder / "model1" / "new", tmp_path / "link"):
        said = "lies in the input" if out.name == "new" else "is the input"
        refused(recipe, out, said, overwrite=True)
    file = {**recipe, "base_model": str(folder / "base" / "model.safetensors")}
    refused(file, folder / "base", "holds the input", overwrite=True)
    names = {path.name for path in (folder / "base").iterdir()}
    assert names == {"model.safetensors", "config.json", "tokenizer.json"}


def test_lock(own: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with locked(out):
        refused(own[0], out, "another merge is writing there")
    merge_checkpoints(own[0], out)


def test_what_is_there_already(own: Any, tmp_path: Path) -> None:
    recipe, _ = own
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    refused(recipe, out, "is not empty", "--overwrite (overwrite=True)")
    merge_checkpoints(recipe, out, overwrite=True, out_shard_size="40KB")
    assert (out / "notes.txt").read_text() == "mine"
    other = {**recipe, "parameters": {"p": 0.1}}
    refused(other, out, "holds a finished merge of another recipe")
    assert "would be refused" in merge_checkpoints(other, out, dry_run=True).notes[-1]
    assert "nothing to do" in merge_checkpoints(recipe, out, dry_run=True, out_shard_size="40KB").notes[-1]
    assert (out / "model.safetensors.index.json").exists()
    merge_checkpoints(other, out, overwrite=True)
    assert [path.name for path in out.glob("model*")] == ["model.safetensors"]


def test_an_unfinished_merge_of_another_recipe(own: Any, tmp_path: Path) -> None:
    recipe, _ = own
    out = tmp_path / "out"

    def stop(stage: str, done: int, total: int) -> None:
        raise RunError("stop")

    with pytest.raises(RunError):
        merge_checkpoints(recipe, out, progress=stop)
    assert (out / JOURNAL_NAME).exists()
    other = {**recipe, "parameters": {"p": 0.1}}
    refused(other, out, "unfinished merge of another recipe")
    assert "would be continued" in merge_checkpoints(recipe, out, dry_run=True).notes[-1]
    with pytest.raises(InputError, match="unfinished merge; run the merge again"):
        verify(out)
    merge_checkpoints(other, out, overwrite=True)
    assert not any(path.name.startswith(".") for path in out.iterdir())


def test_an_input_that_changes_meanwhile(own: Any, tmp_path: Path) -> None:
    recipe, folder = own
    out = tmp_path / "out"

    def touch(stage: str, done: int, total: int) -> None:
        (folder / "model0" / "model.safetensors").touch()

    with pytest.raises(RunError, match="changed while it was in use"):
        merge_checkpoints(recipe, out, progress=touch)
    assert all(path.name.startswith(".") for path in out.iterdir())


def test_what_else_decides_the_result_makes_it_another_merge(own: Any, tmp_path: Path) -> None:
    recipe, folder = own
    out = tmp_path / "out"
    merge_checkpoints(recipe, out, allow_nonfinite=True)
    refused(recipe, out, "holds a finished merge of another recipe")
    merge_checkpoints(recipe, out, overwrite=True)
    assert merge_checkpoints(recipe, out).already_finished
    (folder / "base" / "config.json").write_text('{"model_type": "edited"}')
    refused(recipe, out, "holds a finished merge of another recipe, or of inputs that have changed")


def test_overwriting_leaves_nothing_of_the_merge_before_and_all_else(own: Any, tmp_path: Path) -> None:
    recipe, folder = own
    out = tmp_path / "out"
    merge_checkpoints(recipe, out)
    for name in ("notes.txt", ".download.partial", ".model-00001-of-00003.safetensors.partial"):
        (out / name).write_text("kept")
    (folder / "base" / "tokenizer.json").unlink()
    merge_checkpoints(recipe, out, overwrite=True)
    names = {path.name for path in out.iterdir()}
    assert {"notes.txt", ".download.partial", "config.json"} <= names
    assert names.isdisjoint({"tokenizer.json", ".model-00001-of-00003.safetensors.partial"})
