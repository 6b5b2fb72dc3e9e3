"""Merges from files to files as benchmarks: the models, the contest, the table of its rows, the picture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks import processes
from benchmarks.disk import bars, cache, contest, models, plot, pressure
from benchmarks.disk.recipes import RECIPES
from sta_kernels.recipe import Recipe

ROOT = Path(__file__).parents[2]
COMMON = {"rounds": 3, "rss_anon": 300_000_000, "startup": {"p20": 0.2, "p50": 0.35, "p80": 0.4}}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> models.Family:
    return models.write(tmp_path_factory.mktemp("family"), 600_000, 4)


def figures(p50: float) -> dict[str, float]:
    return {"p20": p50 - 0.1, "p50": p50, "p80": p50 + 0.1}


def row(recipe: str = "sta", ratio: float = 1.0, storage: str = "tmpfs", **case: Any) -> dict[str, Any]:
    known = {"recipe": recipe, "storage": storage, **bars.SIZE, **case}
    return {"op": bars.OP, "case": known, "ratio": figures(ratio), **COMMON}


def verdicts(*rows: dict[str, Any], recipe: str = "sta") -> list[bool | None]:
    return [cell.holds for cell in bars.cells(rows, recipe)]


def test_size_of_the_models(family: models.Family):
    shapes, config = models.llama(267_000_000)
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == pytest.approx(267e6, rel=1e-3)
    assert config["num_hidden_layers"] == 15
    for folder in (family.base, *family.models):
        assert (folder / models.WEIGHTS).stat().st_size == pytest.approx(600_000, rel=0.1)


@pytest.mark.parametrize(("model", "sigma"), [(0, 1e-4), (1, 2e-3), (2, 1e-4), (3, 2e-3)])
def test_deltas_are_realistic(family: models.Family, model: int, sigma: float):
    name = "model.embed_tokens.weight"
    with (
        safe_open(family.base / models.WEIGHTS, "pt") as base,
        safe_open(family.models[model] / models.WEIGHTS, "pt") as tuned,
    ):
        before, after = base.get_tensor(name), tuned.get_tensor(name)
    assert before.dtype == after.dtype == torch.bfloat16
    assert before.float().std().item() == pytest.approx(0.02, rel=0.02)
    exact = sigma**2 + (after.float() / 256).square().mean().item() / 12  # and the rounding's
    assert (after.float() - before.float()).square().mean().item() == pytest.approx(exact, rel=0.3)


def test_importances_carry_their_statistics(family: models.Family):
    with safe_open(family.models[2] / models.IMPORTANCE, "pt") as file:
        statistics = json.loads(file.metadata()["sta_kernels.statistics"])
        for name in file.keys():  # noqa: SIM118
            values = file.get_tensor(name).double()
            low, high, mean = statistics[name]
            assert (low, high) == (values.min().item(), values.max().item())
            assert mean == pytest.approx(values.mean().item(), rel=1e-9)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_reads_the_files_that_it_says(family: models.Family, tmp_path: Path, name: str):
    from sta_kernels.engine import merge_checkpoints

    recipe = RECIPES[name]
    recipe.write(family, tmp_path / "recipe.yaml")
    manifest = merge_checkpoints(Recipe.load(tmp_path / "recipe.yaml"), tmp_path / "out", threads=1)
    read = {file["path"] for entry in manifest.inputs for file in entry["files"]}
    assert read == {str(path) for path in recipe.inputs(family)}


def test_what_is_dropped_is_not_cached(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    assert cache.cached(path) == 1.0
    cache.drop(path)
    if cache.cached(path) == 1.0:
        pytest.skip("files of the temporary folder are in memory")
    assert cache.cached(path) == 0.0
    with open(path, "rb") as file:
        file.read(1)
    assert cache.cached(path) > 0.0


def test_memory_is_held_and_given_back():
    with pressure.leaving(pressure.available() - (1 << 29)) as holder:
        assert processes.rss_anon(holder) > 1 << 28  # other processes come and go meanwhile
    assert processes.rss_anon(holder) == 0
    with pytest.raises(RuntimeError, match="are to be left"), pressure.leaving(2 * pressure.available()):
        pass


def test_quantiles_and_ratios():
    assert contest.quantiles([3.0]) == {"p20": 3.0, "p50": 3.0, "p80": 3.0}
    assert contest.quantiles([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == {"p20": 2.0, "p50": 3.5, "p80": 5.0}
    times = {"merge": [3.0, 5.0, 9.0], "floor": [1.0, 2.0, 2.0], "startup": [0.5, 1.0, 7.0]}
    assert contest.ratios(times, subtract=True)["p50"] == 2.0
    assert contest.ratios(times, subtract=False)["p50"] == 3.0


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([row(ratio=1.35)], [True, None, True, True, None]),
        ([row(ratio=1.36)], [False, None, True, True, None]),
        ([row(ratio=1.2), row(ratio=1.4)], [False, None, True, True, None]),
        ([row(ratio=1.0) | {"startup": figures(0.36)}], [True, None, False, True, None]),
        ([row(ratio=1.0) | {"rss_anon": 300_000_001}], [True, None, True, False, None]),
        ([row(ratio=1.15, storage="disk")], [None, None, None, None, True]),
        ([row(ratio=1.16, storage="disk", cache=3000)], [None, None, None, None, False]),
        ([row(megabytes=50), row(models=2), row(threads=1), row(options=["--quiet"]), row("ties")], [None] * 5),
    ],
)
def test_verdicts(rows: list[dict[str, Any]], found: list[bool | None]):
    assert verdicts(*rows) == found
    assert bars.reached(rows) is (False not in found)


def test_two_reads_may_take_twice_the_time():
    assert verdicts(row("ties", 2.1, "disk"), recipe="ties")[-1] is True
    assert verdicts(row("ties", 2.11, "disk"), recipe="ties")[-1] is False


@pytest.mark.parametrize(("speedup", "found"), [(60.0, True), (59.9, False)])
def test_mergekit_counts_where_it_ran_last(speedup: float, found: bool):
    rows = [row("ties", 2.0) | {"mergekit": {"speedup": figures(speedup)}}, row("ties", 1.9)]
    assert verdicts(*rows, recipe="ties")[:2] == [True, found]
    table = bars.table(rows).splitlines()
    assert len(table) == 3
    assert table[2].startswith("| ties   | 1.90 (1.80 to 2.00), ≤ 2.2 | ")
    assert ("**59.9" in table[2]) is not found


def scaling(recipe: str, series: str, megabytes: int, seconds: float) -> dict[str, Any]:
    case = {"recipe": recipe, "storage": "tmpfs", "models": 4, "megabytes": megabytes}
    size = {"read": megabytes * 5 * 10**6, "written": megabytes * 10**6}
    times = {"seconds": figures(seconds), "floor": figures(seconds / 2), "bytes": size}
    return {"op": bars.SCALING, "contender": series, "case": case} | COMMON | times


def test_picture_shows_the_latest_rows_and_is_told_from_others(tmp_path: Path):
    pytest.importorskip("matplotlib")
    assert plot.draw([row()], tmp_path) is None
    assert plot.is_current([row()], tmp_path)
    rows = [scaling("sta", "bytes", 100, 2.0), scaling("ties", "bytes", 10, 1.0), scaling("sta", "bytes", 100, 1.35)]
    assert plot.lines(rows, "bytes", "tmpfs") == {
        "sta": {0.6: 1.0},
        "ties": {0.06: 0.65},
        "floor of the most bytes": {0.06: 0.5, 0.6: 0.675},
    }
    assert not plot.is_current(rows, tmp_path)
    path = plot.draw(rows, tmp_path)
    assert path is not None
    first = path.read_bytes()
    assert plot.is_current(rows, tmp_path)
    plot.draw(rows, tmp_path)
    assert path.read_bytes() == first
    assert not plot.is_current([*rows, scaling("sta", "bytes", 100, 2.0)], tmp_path)


def run(place: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.disk", "--rounds", "1", "--recipes", "task_arithmetic"]
    command += ["--tmpfs", str(place), "--results", str(place / "rows"), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_a_run_leaves_rows_and_nothing_else(tmp_path: Path):
    done = run(
        tmp_path, "--megabytes", "1", "--chunk", "65536", "--disk", str(tmp_path), "--options=--max-memory 300MB"
    )
    assert done.stderr == ""
    assert done.returncode == 1  # nothing so small pays for its start-up
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]
    warm, cold = map(json.loads, (tmp_path / "rows" / f"{bars.OP}.jsonl").read_text().splitlines())
    assert (warm["case"]["storage"], cold["case"]["storage"]) == ("tmpfs", "disk")
    assert warm["case"]["options"] == ["--max-memory", "300MB"]
    assert warm["digest"] == cold["digest"]
    size = warm["bytes"]["written"]
    assert warm["bytes"]["read"] == pytest.approx(5 * size, rel=0.01)
    assert "| task_arithmetic | " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--megabytes", "100000000"], {}, " MB are needed, "),
        (["--megabytes", "1"], {"CXX": "no-such-compiler"}, "the floor needs a C++ compiler"),
    ],
)
def test_what_is_lacking_is_said_in_one_line(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], message: str
):
    done = run(tmp_path, *arguments, **environment)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
