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


def chat_of(name: str, **files: str) -> dict[str, str]:
    """A model with chat templates in some files."""
    Path(name).mkdir()
    save_file({"w": torch.ones(3)}, f"{name}/model.safetensors")
    for stem, content in files.items():
        Path(name, f"{stem}.json" if content.startswith(("{", "[")) else f"{stem}.jinja").write_text(content)
    return {"model": name}


def test_the_template_that_most_models_have():
    """Wherever each has it, and but for blanks around it; a model without one has no say."""
    named = json.dumps(
        {"chat_template": [{"name": "tools", "template": "old"}, {"name": "default", "template": " new"}]}
    )
    models = [
        {"model": "a"},
        chat_of("b", tokenizer_config=named),
        chat_of("c", chat_template="new\n", tokenizer_config='{"chat_template": "old"}'),
        chat_of("d", tokenizer_config='{"eos_token": "e"}'),
        chat_of("e", chat_template='{"chat_template": "new"}', tokenizer_config='["no mapping"]'),
        chat_of("f", tokenizer_config='{"chat_template": 3}'),
    ]
    with pytest.warns(UserWarning, match="chat_template: auto, that of 3 of the 4 models that have one"):
        merge(models=models, chat_template="auto")
    assert read("tokenizer_config.json") == {"chat_template": "new", "eos_token": "é"}
    assert Path("out/chat_template.jinja").read_text() == "new"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ('{"chat_template": "old"}', "that of 2 of the 2 models"),
        ('{"chat_template": "new"}', "that of 1 of the 2 models"),
        ("{}", "that of 1 of the 1 models"),
    ],
)
def test_the_bases_own_is_first_among_equals_and_changes_nothing(other: str, said: str):
    models = [chat_of("b", tokenizer_config=other), {"model": "a"}]
    with pytest.warns(UserWarning, match=said):
        merge(models=models, base_model="a", merge_method="task_arithmetic", chat_template="auto")
    assert Path("out/tokenizer_config.json").read_bytes() == Path("a/tokenizer_config.json").read_bytes()
    assert not Path("out/chat_template.jinja").exists()


def test_no_model_with_a_template():
    Path("a/tokenizer_config.json").write_text("{}")
    with pytest.warns(UserWarning, match="chat_template: auto, but no model has one"):
        merge(chat_template="auto")
    assert not Path("out/chat_template.jinja").exists()
