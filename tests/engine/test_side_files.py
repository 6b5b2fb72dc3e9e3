"""What stands beside the weights: the configuration's dtype, a chat template, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sta_kernels.engine import Manifest, merge_checkpoints

CHAT = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture(autouse=True)
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One model with a configuration and a tokenizer, in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    save_file({"w": torch.ones(3)}, "a/model.safetensors")
    Path("a/config.json").write_text('{"model_type": "x",  "dtype": "float32"}')
    Path("a/tokenizer_config.json").write_text('{"chat_template": "old", "eos_token": "é"}')
    Path("a/tokenizer.json").write_text("{}")


def merge(out: str = "out", **keys: Any) -> Manifest:
    result = merge_checkpoints({"merge_method": "linear", "models": [{"model": "a"}], **keys}, out)
    assert isinstance(result, Manifest)
    return result


def read(name: str) -> Any:
    return json.loads(Path("out", name).read_text())


def test_files_that_need_no_change_keep_their_bytes():
    merge()
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        assert Path("out", name).read_bytes() == Path("a", name).read_bytes()


def test_the_dtype_follows_the_weights():
    merge(dtype="bfloat16")
    assert read("config.json") == {"model_type": "x", "dtype": "bfloat16"}


def test_a_chat_template_takes_the_place_of_the_bases():
    result = merge(chat_template=CHAT)
    assert read("tokenizer_config.json") == {"chat_template": CHAT, "eos_token": "é"}
    assert Path("out/chat_template.jinja").read_text() == CHAT
    assert {"chat_template.jinja", "tokenizer_config.json"} <= result.files.keys()
    merge_checkpoints({"merge_method": "linear", "models": [{"model": "a"}]}, "out", overwrite=True)
    assert not Path("out/chat_template.jinja").exists()


def test_a_template_in_a_file_of_its_own_is_replaced():
    Path("a/chat_template.jinja").write_text("old")
    merge(chat_template=CHAT)
    assert Path("out/chat_template.jinja").read_text() == CHAT


def test_a_chat_template_without_a_tokenizer_is_noted():
    Path("a/tokenizer_config.json").unlink()
    with pytest.warns(UserWarning, match=r"chat_template: written, but there is no tokenizer_config\.json"):
        merge(chat_template=CHAT)


def test_another_template_is_another_merge():
    one = merge(chat_template=CHAT)
    two = merge("other", chat_template=CHAT + " ")
    assert one.identity != two.identity


def test_a_configuration_that_is_no_json_is_copied():
    Path("a/config.json").write_text("not json")
    merge(dtype="bfloat16")
    assert Path("out/config.json").read_text() == "not json"
