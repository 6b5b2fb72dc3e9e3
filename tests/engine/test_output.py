"""The files that a merge writes, and what the manifest says of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sta_kernels.checkpoint import hash_file, open_checkpoint
from sta_kernels.checkpoint.digest import regions
from sta_kernels.engine import Manifest, Plan, merge_checkpoints, verify
from sta_kernels.engine.jobs import Job
from sta_kernels.errors import InputError


@pytest.fixture(scope="module")
def merged(mixed_models: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Path]:
    """A merge into three shards."""
    out = tmp_path_factory.mktemp("merged") / "out"
    recipe = mixed_models.recipe("sta", dtype="float32")
    result = merge_checkpoints(recipe, out, out_shard_size="95KB")
    assert isinstance(result, Manifest)
    return result, out


def test_shards_open_with_the_formats_own_library(merged: Any, mixed_models: Any) -> None:
    _, out = merged
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == files
    assert len(files) == 2
    found = {}
    for file in files:
        with safe_open(out / file, "pt") as opened:
            assert opened.metadata()["format"] == "pt"
        found.update(load_file(out / file))
    assert found.keys() == mixed_models.base.keys()
    assert {name: x.shape for name, x in found.items()} == {name: x.shape for name, x in mixed_models.base.items()}
    with open_checkpoint(out) as checkpoint:
        assert checkpoint.entries.keys() == found.keys()


def test_side_files(merged: Any, mixed_models: Any) -> None:
    _, out = merged
    base = mixed_models.folder / "base"
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert json.loads((out / "config.json").read_text()) == {"model_type": "toy", "torch_dtype": "float32"}
    assert "merge_method: sta" in (out / "recipe.yaml").read_text()
    assert not any(path.name.startswith(".") for path in out.iterdir())


def test_model_card(merged: Any) -> None:
    import yaml

    _, out = merged
    text = (out / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert len(front["base_model"]) == 4
    assert "merge" in front["tags"]
    assert (out / "recipe.yaml").read_text().rstrip() in text


def test_manifest(merged: Any, mixed_models: Any) -> None:
    result, out = merged
    stored = json.loads((out / "sta_kernels_manifest.json").read_text())
    assert stored == json.loads(json.dumps(result.to_json()))
    for name, record in result.files.items():
        blocks, digest = hash_file(out / name)
        assert record["digest"] == digest.hex()
        assert record.get("regions", [region.hex() for region in regions(blocks)]) == [
            region.hex() for region in regions(blocks)
        ]
    assert len(result.inputs) == 7
    for record in result.inputs:
        for file in record["files"]:
            assert file["digest"] == hash_file(file["path"])[1].hex()
    assert set(result.files) == {path.name for path in out.iterdir()} - {"sta_kernels_manifest.json"}


def test_verify_names_what_differs(merged: Any, tmp_path: Path) -> None:
    import shutil

    _, out = merged
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    assert verify(copy) == []
    first = copy / "model-00001-of-00002.safetensors"
    data = bytearray(first.read_bytes())
    data[-1] ^= 4
    first.write_bytes(data)
    (copy / "recipe.yaml").write_text("merge_method: linear\n")
    (copy / "tokenizer.json").unlink()
    (copy / "extra.safetensors").write_bytes(b"")
    said = verify(copy)
    assert [line.split(":")[0].rsplit("/", 1)[1] for line in said] == [
        "model-00001-of-00002.safetensors",
        "tokenizer.json",
        "recipe.yaml",
        "extra.safetensors",
    ]
    assert f"bytes 0 to {len(data)} differ" in said[0]
    with pytest.raises(InputError, match="no finished merge"):
        verify(tmp_path)


def test_a_merge_can_be_merged_again(merged: Any, mixed_models: Any, tmp_path: Path) -> None:
    """Its own manifest, recipe and card are not taken for side files."""
    _, out = merged
    recipe = mixed_models.recipe("sta_forget", models=1, target=str(out))
    merge_checkpoints(recipe, tmp_path / "out")
    assert verify(tmp_path / "out") == []
    card = (tmp_path / "out" / "README.md").read_text()
    assert "sta_forget" in card
    assert "http" not in card


def test_ties_stay_tied(tmp_path: Path) -> None:
    """A tied head is merged and written once, under the name that safetensors' own loader ties it to."""
    for i in range(2):
        shared = torch.arange(6.0).reshape(2, 3) + i
        (tmp_path / str(i)).mkdir()
        torch.save({"embed": shared, "head": shared, "other": torch.ones(2) * i}, tmp_path / str(i) / "model.pt")
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(tmp_path / "0"),
        "models": [{"model": str(tmp_path / "1"), "parameters": {"weight": 0.5}}],
    }
    merge_checkpoints(recipe, tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    assert load_file(path).keys() == {"embed", "other"}
    assert torch.equal(load_file(path)["embed"], torch.arange(6.0).reshape(2, 3) + 0.5)
    with safe_open(path, "pt") as opened:
        assert opened.metadata()["head"] == "embed"
    untied = {"embed": torch.ones(2, 3), "head": torch.zeros(2, 3), "other": torch.ones(2)}
    torch.save(untied, tmp_path / "1" / "model.pt")
    with pytest.raises(InputError, match="'head' and 'embed' differ"):
        merge_checkpoints(recipe, tmp_path / "again")
    torch.save({**untied, "head": untied["embed"]}, tmp_path / "1" / "model.pt")
    save_file(untied, tmp_path / "importance.safetensors")
    parameters = {"importance": str(tmp_path / "importance.safetensors")}
    chosen = {**recipe, "merge_method": "sta", "models": [{"model": str(tmp_path / "1"), "parameters": parameters}]}
    with pytest.raises(InputError, match=r"importance.safetensors: 'head' and 'embed' differ"):
        merge_checkpoints({**chosen, "parameters": {"keep": 1}}, tmp_path / "again")


def test_dry_run_is_data_and_touches_nothing(mixed_models: Any, tmp_path: Path) -> None:
    recipe = mixed_models.recipe("sta", split={"*.in_proj_weight": 3})
    plan = merge_checkpoints(recipe, tmp_path / "out", dry_run=True)
    assert isinstance(plan, Plan)
    assert not (tmp_path / "out").exists()
    stored = json.loads(json.dumps(plan.to_json()))
    assert [Job.from_json(record) for record in stored["jobs"]] == list(plan.jobs)
    covered = sorted((job.offset, job.offset + job.size * job.out_unit) for job in plan.jobs if job.out_unit)
    (shard,) = plan.layout.shards
    assert [start for start, _ in covered] == [len(shard.header), *(stop for _, stop in covered[:-1])]
    assert covered[-1][1] == shard.size
    same = merge_checkpoints(recipe, tmp_path / "out", dry_run=True, threads=1, max_memory="1GB")
    other = merge_checkpoints({**recipe, "parameters": {"p": 0.1}}, tmp_path / "out", dry_run=True)
    assert isinstance(same, Plan)
    assert isinstance(other, Plan)
    assert same.identity == plan.identity != other.identity


def test_progress_ends_at_what_the_plan_said(mixed_models: Any, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    recipe = mixed_models.recipe("sta")
    plan = merge_checkpoints(recipe, tmp_path / "out", dry_run=True)
    merge_checkpoints(recipe, tmp_path / "out", progress=lambda *report: seen.append(report))
    assert isinstance(plan, Plan)
    last = {stage: (done, total) for stage, done, total in seen}
    assert list(last) == ["merge", "digest", "sync"]
    assert last["merge"] == (plan.bytes_read, plan.bytes_read)
    assert all(done == total for done, total in last.values())


def test_torch_is_not_imported(mixed_models: Any, tmp_path: Path) -> None:
    code = (
        "import json, sys\n"
        "from sta_kernels.engine import merge_checkpoints, verify\n"
        "merge_checkpoints(json.loads(sys.argv[1]), sys.argv[2])\n"
        "assert verify(sys.argv[2]) == []\n"
        "print(sorted({'torch', 'triton', 'transformers', 'safetensors', 'tqdm'} & set(sys.modules)))\n"
    )
    recipe = json.dumps(mixed_models.recipe("sta"))
    done = subprocess.run(
        [sys.executable, "-c", code, recipe, str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
