"""Which models are built, from where their weights come, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from vision_cases import CONFIG, nudged, small_spec, state_of

from sta_kernels import InputError, RunError
from sta_kernels.vision import build, check_spec, load_pretrained
from sta_kernels.vision.extra import need


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B/32", "ViT-L-14-quickgelu"])
def test_names_of_open_clip_are_known(name: str):
    assert check_spec(f"open_clip:{name}") == name.replace("/", "-")


@pytest.mark.parametrize("spec", ["ViT-B-16", "open_clip:", "timm:vit"])
def test_another_form_is_refused(spec: str):
    with pytest.raises(InputError, match="expected open_clip:ARCHITECTURE"):
        check_spec(spec)


def test_an_unknown_name_is_refused_with_what_is_near():
    with pytest.raises(InputError, match=r"knows no ViT-B-61; near it: .*ViT-B-16"):
        check_spec("open_clip:ViT-B-61")


def test_a_description_of_ones_own(spec: str):
    assert check_spec(spec) == "sta-small"
    clip = build(spec)
    assert clip.visual(torch.zeros(2, 3, 32, 32)).shape == (2, 16)
    assert clip.tokenizer(["a cat"]).shape == (1, 77)
    assert not clip.model.training


def test_a_description_that_is_none(folder: Path):
    for text, reason in (("{", "not JSON"), (json.dumps({"embed_dim": 1}), "describes no model")):
        file = folder / "sta-broken.json"
        file.write_text(text)
        with pytest.raises(InputError, match=reason):
            check_spec(f"open_clip:{file}")
        open_clip.factory._MODEL_CONFIG_PATHS.remove(file)
    with pytest.raises(InputError, match="no such file"):
        check_spec(f"open_clip:{folder}/sta-absent.json")


def test_a_description_under_a_name_that_is_taken(folder: Path):
    (folder / "ViT-B-16.json").write_text(json.dumps(CONFIG))
    with pytest.raises(InputError, match="knows another model ViT-B-16"):
        check_spec(f"open_clip:{folder}/ViT-B-16.json")
    assert open_clip.get_model_config("ViT-B-16")["embed_dim"] == 512


def test_weights_from_a_file(spec: str, folder: Path):
    state = nudged(state_of(spec), 3)
    torch.save(state, folder / "clip.pt")
    loaded = load_pretrained(spec, str(folder / "clip.pt")).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_nothing_is_fetched_without_permission(monkeypatch: pytest.MonkeyPatch):
    def fetch(*arguments: object, **keywords: object) -> None:
        raise AssertionError("a download began")

    monkeypatch.setattr(open_clip.factory, "download_pretrained", fetch)
    with pytest.raises(InputError, match="--allow-download permits it"):
        load_pretrained("open_clip:ViT-B-16", "openai")


def test_with_permission_open_clip_fetches(spec: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """What is fetched is open_clip's business; here it finds a file that is there already."""
    state = nudged(state_of(spec), 4)
    torch.save(state, folder / "fetched.pt")
    asked: list[object] = []

    def fetch(config: object, **keywords: object) -> str:
        asked.append(config)
        return str(folder / "fetched.pt")

    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["tag"])
    monkeypatch.setattr(open_clip.factory, "get_pretrained_cfg", lambda name, tag: {"url": tag})
    monkeypatch.setattr(open_clip.factory, "download_pretrained", fetch)
    clip = load_pretrained(spec, "tag", allow_download=True)
    assert asked == [{"url": "tag"}]
    assert torch.equal(clip.model.state_dict()["visual.proj"], state["visual.proj"])

    def fail(config: object, **keywords: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(open_clip.factory, "download_pretrained", fail)
    with pytest.raises(RunError, match="no network"):
        load_pretrained(spec, "tag", allow_download=True)


def test_an_unknown_source_is_refused():
    with pytest.raises(InputError, match="open_clip's weights for ViT-B-16 are openai"):
        load_pretrained("open_clip:ViT-B-16", "vit-b-16.pt", allow_download=True)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(InputError, match=r"open_clip is needed .* pip install '.\[clip\]' in a clone"):
        check_spec("open_clip:ViT-B-16")


def test_a_library_that_lacks_another_says_so_itself(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "sta_lacking.py").write_text("import sta_not_there")
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(ModuleNotFoundError, match="sta_not_there"):
        need("sta_lacking")


def test_two_descriptions_do_not_mix(folder: Path):
    other = small_spec(folder, "sta-other", embed_dim=8)
    assert build(other).visual(torch.zeros(1, 3, 32, 32)).shape == (1, 8)
