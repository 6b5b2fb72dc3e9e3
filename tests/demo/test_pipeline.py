"""The whole demonstration after loading, from files to files, on a tiny transformer and generated images."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import sta_kernels
from sta_kernels.demo import __main__ as program
from sta_kernels.demo import main
from sta_kernels.demo.data import Pictures, Task
from sta_kernels.demo.pipeline import demonstrate
from sta_kernels.demo.recipes import Layout
from sta_kernels.demo.vit import Vit, VitConfig
from sta_kernels.errors import RunError

pytestmark = pytest.mark.xdist_group("demonstration")  # one run of it for all

CONFIG = VitConfig(width=64, hidden=64, depth=2, patch=7, image=14)
STA = ("sta_lp", "sta_amp", "sta_lp_amp")


def make_task(name, seed):
    rng = np.random.default_rng(seed)

    def pictures(count):
        return Pictures(rng.integers(0, 256, (count, 14, 14)).astype(np.uint8), rng.permutation(np.arange(count) % 3))

    return Task(name, 3, pictures(60), pictures(30))


@pytest.fixture(scope="module")
def base():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Vit(CONFIG).eval()


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    tasks = [make_task(name, seed) for seed, name in enumerate(("red", "green", "blue"))]
    lines = []
    return out, demonstrate(base, tasks, out, seed=0, steps=2, say=lines.append), lines


def test_rows_are_complete(run):
    _, results, lines = run
    names = [row["name"] for row in results["rows"]]
    merged = ["average", "task_arithmetic", *STA, "forget_red", "negate_red"]
    assert names == ["pretrained", "individual", *merged]
    for row in results["rows"]:
        assert list(row["accuracy"]) == ["red", "green", "blue"]
        assert all(0 <= share <= 1 for share in row["accuracy"].values())
    assert sum("fine-tuning" in line for line in lines) == 3
    assert json.loads(json.dumps(results)) == results


def test_merges_are_those_of_the_recipes(run):
    """Every merged folder equals the in-memory merge of the models and importance files that the run wrote."""
    out, _, _ = run
    layout = Layout(out)
    base = load_file(layout.base / "model.safetensors")
    tuned = [load_file(layout.model(name) / "model.safetensors") for name in ("red", "green", "blue")]
    importances = [load_file(layout.importance(name)) for name in ("red", "green", "blue")]
    frozen = {"exclude": ["cls_token", "pos_embed", "patch_embed.*"]}
    expected = {
        "average": sta_kernels.merge(base, tuned, method="linear", **frozen),
        "task_arithmetic": sta_kernels.merge(base, tuned, method="task_arithmetic", lambda_=0.4, **frozen),
        "sta_lp": sta_kernels.merge(base, tuned, importances=importances, p=0.7, **frozen),
        "sta_amp": sta_kernels.merge(base, tuned, measure="amp", p=0.7, **frozen),
        "sta_lp_amp": sta_kernels.merge(base, tuned, importances=importances, measure="lp_amp", p=0.7, **frozen),
        "forget_red": sta_kernels.forget(base, base, tuned[0], importances[0], p=0.7, **frozen),
    }
    for name, state in expected.items():
        written = load_file(layout.merged(name) / "model.safetensors")
        assert written.keys() == base.keys()
        assert [key for key in written if not torch.equal(written[key], state[key])] == []
        assert (layout.merged(name) / "config.json").is_file()


def test_kept_shares_are_counted_from_the_files(run):
    out, results, _ = run
    layout = Layout(out)
    base = load_file(layout.base / "model.safetensors")
    keys = [key for key in base if key.startswith("blocks.")]
    rows = {row["name"]: row for row in results["rows"]}
    for name in STA:
        assert sum(rows[name]["kept"].values()) == pytest.approx(1, abs=0.05)  # one of three; ties keep none
    forgotten = load_file(layout.merged("forget_red") / "model.safetensors")
    changed = sum(int((forgotten[key] != base[key]).sum()) for key in keys)
    elements = sum(base[key].numel() for key in keys)
    assert changed / elements <= rows["forget_red"]["kept"]["red"] == pytest.approx(0.3, abs=0.01)
    assert rows["average"]["kept"] is rows["pretrained"]["kept"] is None
    rates = results["selection"]["STA LP, p = 0.7"]
    assert rates["tensors"] == keys
    total = sum(rate * base[key].numel() for key, rate in zip(keys, rates["rates"]["green"], strict=True))
    assert total / elements == pytest.approx(rows["sta_lp"]["kept"]["green"])


def test_program_writes_table_picture_and_numbers(base, tmp_path, monkeypatch, capsys):
    tasks = [make_task(name, seed) for seed, name in enumerate(("red", "green", "blue"))]
    monkeypatch.setattr(program, "load", lambda cache, seed, say: (base, tasks, 1e-6))
    assert main(["--out", str(tmp_path / "out"), "--steps", "1", "--seed", "5"]) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert capsys.readouterr().out.endswith(f"\n\n{table}")
    assert "Seed 5, 1 steps per task." in table
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["conversion_difference"] == 1e-6
    assert results["seconds"]["total"] > results["seconds"]["merging"] > 0
    assert (tmp_path / "out" / "selection_rate.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "--seed: expected zero or more, got -1"),
        (["--steps", "0"], "--steps: expected one or more, got 0"),
    ],
)
def test_wrong_numbers_are_the_callers_mistake(arguments, message, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("onnx", "PIL") else object())
    assert main([]) == 2
    assert capsys.readouterr().err == "error: the demo needs onnx, pillow: pip install '.[demo]' in a clone\n"


def test_a_failed_download_is_the_machines_failure(monkeypatch, capsys):
    def fail(*_):
        raise RunError("no network")

    monkeypatch.setattr(program, "load", fail)
    assert main([]) == 1
    assert capsys.readouterr().err == "error: no network\n"


def test_help_has_an_example_and_needs_no_torch():
    code = "import sys, sta_kernels.demo as d\ntry: d.main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "example: sta-kernels demo --out demo-out" in result.stdout
