"""Folders, files, and hub ids in a cache that the tests lay out."""

from __future__ import annotations

from pathlib import Path

import pytest

from sta_kernels.errors import InputError
from sta_kernels.recipe import Recipe
from sta_kernels.recipe.document import Node
from sta_kernels.recipe.locate import hub_cache, locate_file, locate_model


def node(value: object) -> Node:
    return Node(value, "r.yaml", "base_model", 3)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with owner/name at main (commit abc) and a tag, and plain `name`; the working directory is empty."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    hub = tmp_path / "hf" / "hub"
    for repository, refs in (("models--owner--name", {"main": "abc", "pr/1": "def"}), ("models--gpt", {"main": "abc"})):
        for ref, commit in refs.items():
            (hub / repository / "snapshots" / commit).mkdir(parents=True)
            file = hub / repository / "refs" / ref
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(commit + "\n")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return hub


def test_home_is_expanded(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(cache))
    (cache / "model").mkdir()
    assert locate_model(node("~/model")) == locate_file(node("~/model")) == str(cache / "model")
    (cache / "r.yaml").write_text("merge_method: linear\nmodels: [{model: ~/model, parameters: {weight: 1}}]\n")
    assert Recipe.load("~/r.yaml").models[0].model == str(cache / "model")


def test_paths_are_taken_as_written(cache: Path):
    Path("model").mkdir()
    Path("m+x@1.safetensors").touch()
    assert locate_model(node("model/")) == "model/"
    assert locate_model(node("m+x@1.safetensors")) == "m+x@1.safetensors"


def test_a_folder_goes_before_the_cache(cache: Path):
    Path("owner/name").mkdir(parents=True)
    assert locate_model(node("owner/name")) == "owner/name"


@pytest.mark.parametrize(
    ("reference", "snapshot"),
    [
        ("owner/name", "models--owner--name/snapshots/abc"),
        ("owner/name@main", "models--owner--name/snapshots/abc"),
        ("owner/name@pr/1", "models--owner--name/snapshots/def"),
        ("owner/name@def", "models--owner--name/snapshots/def"),
        ("gpt", "models--gpt/snapshots/abc"),
    ],
)
def test_hub_ids(cache: Path, reference: str, snapshot: str):
    assert locate_model(node(reference)) == str(cache / snapshot)


def test_a_model_with_an_adapter(cache: Path):
    for name in ("model", "a+b", "lora"):
        Path(name).mkdir()
    snapshot = str(cache / "models--owner--name/snapshots/abc")
    assert locate_model(node("model+lora")) == "model+lora"
    assert locate_model(node("a+b+lora")) == "a+b+lora"
    assert locate_model(node("a+b")) == "a+b"
    assert locate_model(node("owner/name@main+lora")) == f"{snapshot}+lora"
    assert locate_model(node("model+owner/name@abc")) == f"model+{snapshot}"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("owner/other", "`hf download owner/other`"),
        ("owner/name@gone", "hub id in the local cache"),
        ("./nowhere", "no such file or folder"),
        ("/nowhere/at/all", "no such file or folder"),
        ("owner/name@../../x", "no such file or folder"),
        ("owner/name+lorax", "LoRA adapter 'lorax' of owner/name+lorax: no such folder under "),
        ("base", "nor a hub id in the local cache"),
        ("owner/name+c/d", "`hf download c/d`"),
        ("a/b+owner/name", "`hf download a/b`"),
        ("owner/name+", "an empty name"),
        ("", "an empty name"),
        (7, "expected a string, not 7"),
    ],
)
def test_refused_with_key_and_line(cache: Path, reference: object, message: str):
    with pytest.raises(InputError) as caught:
        locate_model(node(reference))
    assert str(caught.value).startswith("r.yaml:3: base_model: ")
    assert message in str(caught.value)


def test_a_download_is_offered_where_there_may_be_one(cache: Path):
    with pytest.raises(InputError) as caught:
        locate_model(node("base"))
    assert "hf download" not in str(caught.value)


def test_spaces_around_the_plus_are_no_part_of_the_names(cache: Path):
    Path("model").mkdir()
    Path("lora").mkdir()
    assert locate_model(node("model + lora")) == "model+lora"


def test_a_ref_that_leads_out_of_the_cache_is_not_followed(cache: Path):
    (cache / "outside").mkdir()
    (cache / "models--owner--name" / "refs" / "evil").write_text("../../outside")
    with pytest.raises(InputError):
        locate_model(node("owner/name@evil"))


def test_order_of_the_environment_variables(monkeypatch: pytest.MonkeyPatch):
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", "/home/x")
    assert hub_cache() == Path("/home/x/.cache/huggingface/hub")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert hub_cache() == Path("/xdg/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "~/hf")
    assert hub_cache() == Path("/home/x/hf/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/hub")
    assert hub_cache() == Path("/hub")


def test_importance_files_must_exist(cache: Path):
    Path("i.safetensors").touch()
    assert locate_file(node("i.safetensors")) == "i.safetensors"
    with pytest.raises(InputError, match=r"r\.yaml:3: base_model: 'j': no such file"):
        locate_file(node("j"))
