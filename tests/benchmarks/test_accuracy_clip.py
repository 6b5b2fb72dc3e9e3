"""The CLIP suite from end to end, on a small model and generated pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torchvision.datasets import FakeData
from vision_cases import class_folders, nudged, small_spec, state_of, write_mnist

sys.path.append(str(Path(__file__).parents[2]))
from benchmarks import records
from benchmarks.accuracy.__main__ import main
from benchmarks.accuracy.clip import command, figures, finetune, merges, run, settings, tables

pytestmark = pytest.mark.xdist_group("clip-suite")
COMMON = {"time": "2026-01-01T00:00:00+00:00", "revision": "abc", "machine": {}, "versions": {}}
TASKS = ["mnist", "eurosat", "resisc45"]
Suite = Callable[..., int]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    spec = small_spec(folder, "sta-suite")
    state = state_of(spec)
    torch.save(state, folder / "base.pt")
    torch.save(nudged(state, 1), folder / "mnist.pt")
    write_mnist(folder / "data")
    for name, classes in (("eurosat/2750", ("Forest", "River", "SeaLake")), ("resisc45", ("airport", "beach"))):
        class_folders(folder / "data" / name, classes, 10)
    class_folders(folder / "control", ("cat", "dog"), 10)
    return folder


def call(files: Path, patch: pytest.MonkeyPatch, out: Path, *arguments: str) -> int:
    patch.setattr(records, "environment", lambda: dict(COMMON))
    patch.setattr(finetune, "WARM_UP", 1)
    return main(
        ["clip", "--model", f"open_clip:{files}/sta-suite.json", "--pretrained", str(files / "base.pt"),
         "--tasks", *TASKS, "--data", str(files / "data"), "--control", f"folder={files}/control",
         "--checkpoint", f"mnist={files}/mnist.pt", "--epochs", "eurosat=1", "resisc45=2", "--samples", "2",
         "--workers", "0", "--out", str(out), "--results", str(out / "rows"), *arguments]
    )  # fmt: skip


@pytest.fixture
def suite(files: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    return partial(call, files, monkeypatch)


@pytest.fixture(scope="module")
def finished(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, once."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        assert call(files, patch, out) == 0
    return out


def rows_of(out: Path) -> list[dict[str, Any]]:
    return records.read(out / "rows")


def test_every_row_is_there(finished: Path):
    rows = json.loads((finished / "results.json").read_text())["rows"]
    table2 = [name for name, row in rows.items() if row["part"] == "table2"]
    assert table2 == [
        "average", "task_arithmetic", "ties", "dare_average", "dare_task_arithmetic", "dare_ties", "pcb", "tsv_m",
        "sta_lp", "sta_amp", "sta_lp_amp",
    ]  # fmt: skip
    assert sum(row["part"] == "table3" for row in rows.values()) == 3 * 4
    assert sum(row["part"] == "pairs" for row in rows.values()) == 3 * 4
    assert rows["pretrained"]["accuracy"].keys() == {*TASKS, "folder"}
    for name in table2:
        assert list(rows[name]["accuracy"]) == TASKS
        assert (rows[name]["kept"] is not None) == name.startswith("sta")
    assert list(rows["forget_lp_eurosat"]["accuracy"]) == ["eurosat", "folder"]
    assert all(0 <= share <= 1 for row in rows.values() for share in row["accuracy"].values())
    assert not list((finished / "merged").iterdir())


def test_rows_are_recorded_as_others_are(finished: Path):
    rows = rows_of(finished)
    assert len(rows) == 2 + 11 + 12 + 12
    assert {row["op"] for row in rows} == {"accuracy_clip"}
    assert rows[0]["contender"] == "pretrained"
    assert rows[0]["images"] == {"mnist": 10, "eurosat": 6, "resisc45": 4, "folder": 4}
    case = rows[-1]["case"]
    assert (case["pretrained"], case["model"], case["control"]) == ("base.pt", "sta-suite.json", "folder")
    assert (case["own_checkpoints"], case["epochs"]["resisc45"]) == (["mnist"], 2)
    assert str(finished.parent) not in json.dumps(rows)


def test_models_are_as_asked(finished: Path, files: Path):
    given = torch.load(files / "mnist.pt")
    base, mnist = (load_file(finished / "models" / name / "model.safetensors") for name in ("base", "mnist"))
    assert all(torch.equal(mnist[name], given[name]) for name in mnist)
    assert all(name.startswith("visual.") for name in base)
    for name in ("eurosat", "resisc45"):
        trained = load_file(finished / "models" / name / "model.safetensors")
        moved = [float((trained[key] - base[key]).abs().max()) for key in base]
        assert all(0 < distance < 1e-3 for distance in moved), "every entry, by about the learning rate"
        assert (finished / "models" / name / "importance.safetensors").exists()


def test_tables_are_made_of_the_record(finished: Path):
    text = (finished / "tables.md").read_text()
    record = json.loads((finished / "results.json").read_text())
    assert "## Merging (Table 2)" in text
    assert "MNIST 10, EuroSAT 6, RESISC45 4" in text
    share = record["rows"]["pcb"]["accuracy"]["eurosat"]
    line = next(line for line in text.splitlines() if line.startswith("| PCB"))
    assert [cell.strip() for cell in line.split("|")][3] == tables.percent(share)
    assert text.count("| negation, λ = -1") == 3
    assert "MNIST + RESISC45" in text


def test_figures_and_their_data(finished: Path):
    for name in ("figure3", "figure4"):
        assert (finished / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    third = json.loads((finished / "figure3.json").read_text())
    matrix = third["pairs"]["STA LP, p = 0.7"]
    assert [matrix[i][i] for i in range(3)] == [None] * 3
    assert matrix[0][2] == matrix[2][0] is not None
    fourth = json.loads((finished / "figure4.json").read_text())["STA LP, p = 0.7"]
    assert list(fourth) == TASKS
    assert list(fourth["mnist"]["mlp.c_fc.weight"]) == ["0", "1"]
    sums = [sum(fourth[task]["mlp.c_fc.weight"][layer] for task in TASKS) for layer in ("0", "1")]
    assert all(0.9 < total <= 1 for total in sums), "one of three tasks at nearly every position"


def test_a_finished_run_measures_nothing_again(finished: Path, suite: Suite, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("benchmarks.accuracy.clip.laboratory.count_correct", None)
    before = (finished / "tables.md").read_text()
    (finished / "tables.md").unlink()
    assert suite(finished) == 0
    assert (finished / "tables.md").read_text() == before
    assert len(rows_of(finished)) == 37


def test_a_run_of_other_settings_is_refused(finished: Path, suite: Suite, capsys: pytest.CaptureFixture[str]):
    assert suite(finished, "--seed", "1") == 2
    assert "holds a run with another seed; choose another --out" in capsys.readouterr().err


def test_other_content_of_a_file_is_another_run(
    finished: Path, suite: Suite, files: Path, capsys: pytest.CaptureFixture[str]
):
    for name, option in (("mnist.pt", "--checkpoint mnist"), ("base.pt", "--pretrained")):
        content = (files / name).read_bytes()
        try:
            (files / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            assert suite(finished) == 2
        finally:
            (files / name).write_bytes(content)
        assert f"holds a run with another content of {option}; choose another --out" in capsys.readouterr().err


def test_files_of_a_folder_are_told_apart_by_content(tmp_path: Path):
    save_file({"w": torch.zeros(3)}, tmp_path / "model.safetensors")
    asked = settings.Settings("m", "a-tag", ("mnist",), tmp_path, checkpoints={"mnist": tmp_path})
    before = asked.contents()
    assert list(before) == ["content of --checkpoint mnist"]
    (tmp_path / "importance.json").write_text("{}")
    assert asked.contents() == before
    save_file({"w": torch.ones(3)}, tmp_path / "model.safetensors")
    assert asked.contents() != before


def test_a_run_that_was_stopped_is_continued(
    suite: Suite, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Parts may be added; frozen entries counted where asked for; fewer pictures taken; DARE goes by the seed."""
    trial = ("--limit", "3", "--count-frozen", "--seed", "7", "--parts", "table2")
    merge, stop = run.Run.merge, iter(range(4))

    def until(self: run.Run, *arguments: Any) -> None:
        if next(stop, None) is None:
            raise OSError("no space left")
        merge(self, *arguments)

    monkeypatch.setattr(run.Run, "merge", until)
    assert suite(tmp_path, *trial) == 1
    assert "no space left" in capsys.readouterr().err
    assert len(rows_of(tmp_path)) == 2 + 4
    monkeypatch.setattr(run.Run, "merge", merge)
    assert suite(tmp_path, *trial, "table3") == 0
    rows = rows_of(tmp_path)
    assert len(rows) == 2 + 11 + 1 + 12, "the pretrained model was evaluated on the control later"
    assert rows[-1]["images"] == {"mnist": 3, "eurosat": 3, "resisc45": 3, "folder": 3}
    assert "token_embedding.weight" in load_file(tmp_path / "models" / "base" / "model.safetensors")
    assert not (tmp_path / "figure3.png").exists()
    dropped = [yaml.safe_load((tmp_path / "recipes" / f"dare_of_{name}.yaml").read_text()) for name in TASKS]
    assert [recipe["parameters"]["seed"] for recipe in dropped] == [7000, 7001, 7002]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--tasks", "mnist"], "at least two"),
        (["--tasks", "mnist", "mnist=x"], "one of them twice"),
        (["--tasks", "mnist", "cifar"], "data set 'cifar' is unknown"),
        (["--tasks", "mnist", "svhn", "--epochs", "mnist=1"], "SVHN: nothing to read in"),
        (["--checkpoint", "svhn=x.pt"], "--checkpoint svhn=x.pt: expected NAME=…"),
        (["--checkpoint", "eurosat=absent.pt"], "absent.pt: no such file"),
        (["--epochs", "eurosat=0"], "expected a whole number from 1"),
        (["--samples", "99"], "samples: 99 asked for, and mnist has 20"),
        (["--samples", "0"], "--samples: at least 1"),
        (["--dare-drop", "1"], "--dare-drop: a share"),
        (["--control", "imagenet"], "ImageNet: nothing to read in"),
        (["--control", "x"], "data set 'x' is unknown"),
        (["--pretrained", "openai"], "no such file, and no weights that open_clip knows"),
        (["--device", "cuda:99"], "device cuda:99"),
        (["--model", "ViT"], "expected open_clip:ARCHITECTURE"),
        (["--published", "absent.json"], "absent.json: not of the form of published.json"),
    ],
)
def test_refusals(arguments: list[str], reason: str, suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert suite(tmp_path / "out", *arguments) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_task_that_cannot_be_trained(suite: Suite, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code = suite(tmp_path / "out", "--tasks", "mnist", f"folder={files}/control", "--epochs", "mnist=1")
    assert code == 2
    assert "folder: how long it is trained is not known: --epochs folder=N" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[]", "{", '{"settings": {}}'])
def test_a_folder_that_holds_something_else(content: str, tmp_path: Path):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(tables.InputError, match="not a record of this suite"):
        run.Record(settings.Settings("m", "p", ("mnist",), tmp_path))


def test_published_figures_stand_beside_ours(finished: Path):
    record = json.loads((finished / "results.json").read_text())
    source, theirs = tables.published(tables.SHIPPED, "ViT-B-16-quickgelu")
    assert theirs["pretrained"] == {"mnist": 51.73}
    text = tables.table2(record, theirs, source)
    line = next(line for line in text.splitlines() if line.startswith("| pretrained"))
    assert "(51.73)" in line.split("|")[2]
    assert "In brackets: arXiv 2411.16139, Table 2." in text
    assert tables.published(tables.SHIPPED, "ViT-L-14")[1] == {}
    names = {merge.name for merge in merges.table2(TASKS, 0.1)} | {run.PRETRAINED, run.INDIVIDUAL}
    assert theirs.keys() <= names


def test_the_learning_rate_rises_and_falls():
    shares = [finetune.share_of_rate(step, 2000) for step in range(2001)]
    assert shares[0] == 1 / 500
    assert max(shares) == shares[499] == shares[500] == 1
    assert shares[1250] == pytest.approx(0.5)
    assert shares[2000] == 0
    assert finetune.share_of_rate(3, 4) == 4 / 500, "a run shorter than its warm-up"


def test_training_is_that_of_the_papers():
    """Fine-tuning learns the labels of torchvision's generated pictures, reproducibly, and leaves the head alone."""
    from torch import nn
    from torchvision.transforms.functional import to_tensor

    def trained() -> tuple[nn.Module, list[float]]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4))
        losses: list[float] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(finetune, "LEARNING_RATE", 1e-2)
            patch.setattr(finetune, "WARM_UP", 1)
            finetune.finetune(
                model, FakeData(40, (3, 8, 8), 4), to_tensor, epochs=30, seed=0, workers=0,
                progress=lambda done, steps, loss: losses.append(loss),
            )  # fmt: skip
        return model, losses

    model, losses = trained()
    assert len(losses) == 30
    assert losses[-1] < 0.75 * losses[0]
    assert losses == trained()[1]
    assert finetune.count_correct(model, FakeData(40, (3, 8, 8), 4), to_tensor, 7, 0) > 20, "of 40; 10 by chance"


def test_rates_by_layer_and_type():
    rates = {"visual.transformer.resblocks.11.ln_1.weight": 0.25, "visual.conv1.weight": 0.5}
    assert figures.by_layer_and_type(rates) == {"ln_1.weight": {11: 0.25}}


def test_the_suites_are_listed(capsys: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0
    assert main(["imagenet"]) == 2
    assert "clip" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["clip", "--help"])
    assert "--allow-download" in capsys.readouterr().out
    assert command.OP == "accuracy_clip"
