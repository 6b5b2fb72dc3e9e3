"""``sta-kernels importance``: from files to a file that a merge reads; what is refused before anything is computed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from vision_cases import class_folders, nudged, small_spec, state_of

import sta_kernels as sk
from sta_kernels.checkpoint import ImportanceMetadata, model_digest
from sta_kernels.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model before and after fine-tuning, and pictures."""
    folder = tmp_path_factory.mktemp("files")
    spec = small_spec(folder)
    state = state_of(spec)
    torch.save(state, folder / "base.pt")
    save_file(nudged(state, 1), folder / "whole.safetensors")
    encoder = {name: tensor for name, tensor in nudged(state, 2).items() if name.startswith("visual.")}
    save_file(encoder, folder / "encoder.safetensors")
    class_folders(folder / "pictures", ("cat", "dog"), 10)
    return folder


@pytest.fixture
def run(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str, checkpoint: str = "encoder.safetensors") -> tuple[int, str, str]:
        model = ["--model", f"open_clip:{files}/sta-small.json", "--checkpoint", str(files / checkpoint)]
        try:
            code = main(["importance", *model, "--out", str(tmp_path / "importance.safetensors"), *arguments])
        except SystemExit as error:
            code = int(error.code or 0)
        return (code, *capsys.readouterr())

    return call


@pytest.fixture
def task(files: Path) -> list[str]:
    return ["--dataset", f"folder={files}/pictures", "--samples", "3", "--pretrained", str(files / "base.pt")]


def test_a_file_that_says_what_it_is(run: Run, task: list[str], files: Path, tmp_path: Path):
    code, out, err = run(*task)
    assert (code, err) == (0, "")
    file = tmp_path / "importance.safetensors"
    model = load_file(files / "encoder.safetensors")
    assert out.startswith(f"{file}: lp, {len(model)} tensors, 3 samples")
    with safe_open(file, "np") as opened:
        metadata = ImportanceMetadata.from_metadata(opened.metadata())
    assert metadata is not None
    assert (metadata.measure, metadata.samples) == ("lp", 3)
    assert load_file(file).keys() == model.keys()
    digest = model_digest((name, [model[name].numpy().reshape(-1)]) for name in load_file(file))
    assert metadata.model_digest == digest


def test_the_text_encoder_of_the_checkpoint_itself(run: Run, files: Path, task: list[str]):
    code, out, _ = run(*task[:4], checkpoint="whole.safetensors")
    assert (code, "3 samples" in out) == (0, True)
    code, _, err = run(*task[:4], "--overwrite")
    assert code == 2
    assert "an image encoder alone" in err


def test_the_seed_decides(run: Run, task: list[str], tmp_path: Path):
    file = tmp_path / "importance.safetensors"
    contents = []
    for seed in ("0", "0", "1"):
        assert run(*task, "--seed", seed, "--overwrite", "--quiet") == (0, "", "")
        contents.append(file.read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_the_measures(run: Run, task: list[str], tmp_path: Path, files: Path):
    file = tmp_path / "importance.safetensors"
    read = {}
    for measure, given in (("lp", task), ("lp_amp", task), ("amp", [])):
        assert run("--measure", measure, *given, "--overwrite")[0] == 0
        read[measure] = load_file(file)
    name = "visual.transformer.resblocks.0.mlp.c_fc.weight"
    theta = load_file(files / "encoder.safetensors")[name]
    assert torch.equal(read["amp"][name], theta.square())
    assert torch.equal(read["lp_amp"][name], read["lp"][name] * theta.square())


def test_prompts_change_the_head(run: Run, task: list[str], tmp_path: Path):
    file = tmp_path / "importance.safetensors"
    run(*task)
    before = file.read_bytes()
    (tmp_path / "p.json").write_text('{"classes": ["cow", "pig"]}')
    assert run(*task, "--overwrite", "--prompts", str(tmp_path / "p.json"))[0] == 0
    assert file.read_bytes() != before


def test_what_it_writes_can_be_merged(run: Run, task: list[str], files: Path, tmp_path: Path):
    """A pickled state dict is exported, and merged with STA by the importances."""
    models = []
    for name, checkpoint in (("a", "whole.safetensors"), ("b", "encoder.safetensors")):
        out = tmp_path / name
        assert run(*task, "--out", str(out), "--export", str(out), checkpoint=checkpoint)[0] == 0
        models.append({"model": str(out), "parameters": {"importance": str(out / "importance.safetensors")}})
    base = tmp_path / "base"
    assert run("--measure", "amp", "--out", str(base), "--export", str(base), checkpoint="base.pt")[0] == 0
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"merge_method": "sta", "base_model": str(base), "models": models}))
    manifest = sk.merge_checkpoints(recipe, tmp_path / "merged")
    assert sum(manifest.summary()["kept"]) > 0  # type: ignore[union-attr]


def test_names_of_others_are_told(run: Run, files: Path, tmp_path: Path):
    torch.save(torch.nn.Sequential(), tmp_path / "x.pt")
    import open_clip

    model = open_clip.create_model("sta-small")
    torch.save(model, tmp_path / "module.pt")
    code, _, err = run("--measure", "amp", checkpoint=str(tmp_path / "module.pt"))
    assert code == 0
    assert "module.pt is a pickled module; a merge needs the encoder as --export writes it" in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--measure", "amp", "--samples", "3"], "amp reads the weights alone: leave out --samples"),
        (["--measure", "amp", "--samples", "3", "--dataset", "mnist"], "leave out --samples, --dataset"),
        ([], "--measure lp needs pictures of the task: --dataset"),
        (["--dataset", "cifar", "--data", "."], "data set 'cifar' is unknown"),
        (["--dataset", "mnist", "--data", "absent"], "MNIST: nothing to read in absent: no such folder"),
        (["--dataset", "mnist"], "where is the data"),
        (["--device", "cuda:99", "--measure", "amp"], "device cuda:99"),
        (["--measure", "amp", "--checkpoint", "absent.pt"], "absent.pt: no such file or folder"),
        (["--measure", "amp", "--model", "open_clip:ViT-X"], "knows no ViT-X"),
        (["--measure", "amp", "--out", "absent/x.safetensors"], "the folder absent does not exist"),
    ],
)
def test_refusals(arguments: list[str], reason: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert reason in err
    assert list(tmp_path.iterdir()) == []


def test_more_samples_than_pictures(run: Run, task: list[str], tmp_path: Path):
    code, _, err = run(*task, "--samples", "17")
    assert code == 2
    assert "samples: 17 asked for, and folder has 16 pictures to draw from" in err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_replaced_unasked(run: Run, task: list[str], tmp_path: Path):
    file = tmp_path / "importance.safetensors"
    file.write_bytes(b"mine")
    code, _, err = run(*task)
    assert code == 2
    assert f"{file}: is there already; --overwrite replaces it" in err
    file.unlink()
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    code, _, err = run(*task, "--export", str(tmp_path))
    assert code == 2
    assert "model.safetensors: is there already" in err
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_checkpoint_itself_is_never_replaced(run: Run, tmp_path: Path, files: Path):
    (tmp_path / "model.safetensors").write_bytes((files / "encoder.safetensors").read_bytes())
    before = (tmp_path / "model.safetensors").read_bytes()
    for checkpoint in (tmp_path, tmp_path / "model.safetensors"):
        code, _, err = run("--measure", "amp", "--export", str(tmp_path), "--overwrite", checkpoint=str(checkpoint))
        assert code == 2
        assert "would replace the checkpoint itself" in err
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_without_the_extra(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    code, _, err = run("--measure", "amp")
    assert code == 2
    assert "open_clip is needed for this and is not installed: pip install '.[clip]' in a clone" in err
