"""A call of mergekit-yaml, one word changed: each option has its effect, says that it has none, or is refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sta_kernels import cli
from sta_kernels.cli import merge, mergekit_flags

RECIPE = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]\n"
RANDOM = """\
merge_method: dare_linear
base_model: a
models: [{model: b, parameters: {weight: 1, density: 0.5}}]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory, with two models, side files and a recipe."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        Path(name).mkdir()
        values = np.random.default_rng(seed).standard_normal((40, 30), np.float32)
        save_file({"w.weight": values, "v.weight": values[0]}, Path(name, "model.safetensors"))
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            Path(name, file).write_text("{}")
    Path("recipe.yaml").write_text(RECIPE)


def run(capsys: pytest.CaptureFixture[str], *options: str, out: str = "out") -> tuple[int, str]:
    code = cli.main(["merge", "recipe.yaml", out, *options])
    return code, capsys.readouterr().err


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    with pytest.raises(SystemExit) as left:
        cli.main(["merge", "recipe.yaml", "out", *options])
    assert left.value.code == 2
    assert not Path("out").exists()
    return capsys.readouterr().err


def test_a_call_of_mergekit_as_it_stands(capsys: pytest.CaptureFixture[str]):
    options = (
        "--lazy-unpickle --low-cpu-memory --allow-crimes --out-shard-size 5B --copy-tokenizer --random-seed 7 -j 1"
    )
    code, err = run(capsys, *options.split())
    assert code == 0
    assert Path("out/tokenizer.json").exists()
    noted = re.findall(r"^sta-kernels: note: (--[\w-]+): no effect", err, re.MULTILINE)
    assert noted == ["--low-cpu-memory", "--lazy-unpickle", "--allow-crimes", "--random-seed"]


@pytest.mark.parametrize("name", sorted(mergekit_flags.NO_EFFECT))
def test_what_has_no_effect_says_so_in_one_line(name: str, capsys: pytest.CaptureFixture[str]):
    flag = "--" + name.replace("_", "-")
    value = ["3"] if name in mergekit_flags.WITH_VALUE else []
    code, err = run(capsys, flag, *value)
    assert code == 0
    assert [line for line in err.splitlines() if flag in line] == err.splitlines()
    assert err.count("\n") == 1
    assert run(capsys, flag, *value, "--quiet", out="quiet") == (0, "")
    if not value:
        assert run(capsys, flag.replace("--", "--no-", 1), out="other")[0] == 0


def test_every_option_is_in_the_help(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.main(["merge", "--help"])
    text = capsys.readouterr().out
    flags = """cuda device low-cpu-memory read-to-gpu multi-gpu lazy-unpickle copy-tokenizer no-copy-tokenizer
        random-seed out-shard-size quiet allow-crimes trust-remote-code safe-serialization write-model-card async-write
        write-threads num-threads gpu-rich clone-tensors lora-merge-cache lora-merge-dtype transformers-cache
        verbose no-quiet unsafe-truncate-embeddings"""
    assert [flag for flag in flags.split() if not re.search(rf"--{flag}\b", text)] == []


def test_without_tokenizer_files(capsys: pytest.CaptureFixture[str]):
    run(capsys, "--no-copy-tokenizer")
    assert {file.name for file in Path("out").glob("*.json")} == {
        "config.json", "generation_config.json", "sta_kernels_manifest.json"
    }  # fmt: skip


def test_without_a_model_card(capsys: pytest.CaptureFixture[str]):
    run(capsys, "--no-write-model-card")
    assert not Path("out/README.md").exists()
    assert run(capsys)[0] == 2  # with one, it is another result
    assert run(capsys, "--overwrite")[0] == 0
    assert Path("out/README.md").exists()


@pytest.mark.parametrize(("text", "size"), [("5B", "5GB"), ("1b", "1GB"), ("2GB", "2GB"), ("700", "700"), ("3M", "3M")])
def test_mergekits_billions(text: str, size: str):
    assert merge.parser().parse_args(["r", "o", "--out-shard-size", text]).out_shard_size == size


@pytest.mark.parametrize(
    ("options", "device"),
    [("", "auto"), ("--cuda", "cuda"), ("--no-cuda", "auto"), ("--gpu-rich", "cuda"), ("--device cpu --no-cuda", "cpu"),
     ("--cuda --device cuda:1", "cuda:1"), ("--cuda --device auto", "cuda")],
)  # fmt: skip
def test_where_it_runs(options: str, device: str):
    parser = merge.parser()
    arguments = parser.parse_args(["r", "o", *options.split()])
    mergekit_flags.check(arguments, parser)
    assert mergekit_flags.device(arguments) == device


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--cuda --device cpu", "--cuda: contradicts --device cpu"),
        ("--gpu-rich --device interpret", "--gpu-rich: contradicts --device interpret"),
        ("--no-cuda --device cuda:0", "--no-cuda: contradicts --device cuda:0"),
        ("--no-safe-serialization", "--no-safe-serialization: safetensors are all that is written"),
        ("--unsafe-truncate-embeddings", "--unsafe-truncate-embeddings: not supported"),
        ("--random-seed -1", "--random-seed: expected a whole number"),
        ("--random-seed 1.5", "expected a whole number, zero or more, got '1.5'"),
    ],
)
def test_refused_where_silence_would_be_wrong(options: str, message: str, capsys: pytest.CaptureFixture[str]):
    assert message in refused(capsys, *options.split())


def drawn(out: str) -> dict[str, Any]:
    return load_file(Path(out, "model.safetensors"))


def test_the_seed_reaches_methods_that_draw(capsys: pytest.CaptureFixture[str]):
    Path("recipe.yaml").write_text(RANDOM)
    for out, options in {"one": (), "two": ("--random-seed", "5"), "three": ("--random-seed", "5")}.items():
        assert run(capsys, *options, out=out)[0] == 0
    assert not np.array_equal(drawn("one")["w.weight"], drawn("two")["w.weight"])
    assert np.array_equal(drawn("two")["w.weight"], drawn("three")["w.weight"])
    manifest = json.loads(Path("two/sta_kernels_manifest.json").read_text())
    assert "seed 5, from --random-seed" in manifest["notes"]
    Path("recipe.yaml").write_text(RANDOM + "parameters: {seed: 5}\n")
    _, err = run(capsys, "--random-seed", "9", out="four")
    assert "--random-seed: no effect, the recipe gives `seed`" in err
    assert np.array_equal(drawn("two")["w.weight"], drawn("four")["w.weight"])


def test_models_are_looked_for_in_the_cache_that_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("HF_HUB_CACHE", "elsewhere")
    snapshot = Path("hub/models--owner--a/snapshots/main")
    snapshot.mkdir(parents=True)
    Path("a/model.safetensors").rename(snapshot / "model.safetensors")
    Path("recipe.yaml").write_text("merge_method: linear\nmodels: [{model: owner/a}, {model: b}]\n")
    assert run(capsys)[0] == 2
    assert run(capsys, "--transformers-cache", "hub", "-v", "--no-quiet")[0] == 0
    assert os.environ["HF_HUB_CACHE"] == "elsewhere"
