"""The offline suite, run small: choices never see test images, a killed run goes on, the page is that of its rows."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_suite import SECTIONS, SIZES, TASKS, base, pools, suite

import sta_kernels as sk
from benchmarks import records
from benchmarks.accuracy.offline import command, figures, tasks
from benchmarks.accuracy.offline.catalogue import catalogue
from benchmarks.accuracy.offline.collect import OP
from benchmarks.accuracy.offline.laboratory import TEST, VALIDATION, Laboratory
from benchmarks.accuracy.offline.merges import Made, Merge, chosen, run
from benchmarks.accuracy.offline.recorded import Recorded
from scripts import results_page
from sta_kernels import methods
from sta_kernels.errors import RunError

pytestmark = pytest.mark.xdist_group("small_suite")
PASSING = ("time", "revision")
KILLED_AFTER = 25
"""Lines of progress: in the middle of the merges."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def rows(cache: Path) -> list[dict[str, Any]]:
    running = suite(cache)
    running.prepare()
    return running.rows(SECTIONS)


@pytest.fixture(scope="module")
def laboratory(cache: Path, rows: list[dict[str, Any]]) -> Laboratory:
    return Laboratory(base(), pools(), 0, SIZES, cache)


def lasting(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in PASSING} for row in rows]


def test_the_registry_is_in_it():
    # A merge's name holds its method's: a catalogue without one would leave it out of the tables silently.
    merges = [merge for section in catalogue(("a", "b", "c", "d")).values() for merge in section]
    for method in methods.names():
        named = "forget-lp" if method == "sta_forget" else method
        assert any(named in merge.name for merge in merges), method
    assert len({merge.name for merge in merges}) == len(merges)


def test_rows(rows: list[dict[str, Any]]):
    assert json.loads(json.dumps(rows)) == rows
    by_name = {row["contender"]: row for row in rows}
    for row in rows:
        assert row["op"] == OP
        everything = [share for seeds in row["accuracy"].values() for share in seeds]
        assert row["average"]["mean"] == pytest.approx(np.mean(everything), abs=1e-6)
    assert by_name["pretrained"]["images"] == dict.fromkeys(TASKS, SIZES.test)
    assert by_name["forget-lp-circles"]["images"] == dict.fromkeys(TASKS, SIZES.brief)
    assert list(by_name["forget-lp-circles"]["control_accuracy"]) == ["squares"]
    assert by_name["task_arithmetic"]["value"][0] in by_name["task_arithmetic"]["values"]
    assert [by_name[name]["family"] for name in ("forget-lp", "forget-lp-circles")] == [True, False]
    own = [by_name[f"individual-{task}"]["average"]["mean"] for task in TASKS]
    assert by_name["individual"]["average"]["mean"] == pytest.approx(np.mean(own), abs=1e-6)


def test_kept_shares(rows: list[dict[str, Any]]):
    # p = 0.7 keeps one of two tasks at every position without a tie.
    kept = next(row["kept"] for row in rows if row["contender"] == "sta_lp")
    assert kept["blocks.0.mlp.fc1.weight"][-1] < 0.01
    for shares in kept.values():
        assert sum(shares) == pytest.approx(1, abs=2e-3)


def test_importance_is_that_of_the_package(laboratory: Laboratory):
    preparation = laboratory.preparation("circles")
    model = preparation.tuned()
    samples = preparation.samples("gradients", model, SIZES.samples)
    expected = sk.importance(model, samples, preparation.head().loss, measure="lp")
    found = laboratory.importance("circles")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    shortcut = preparation.summed_over_batch()
    assert any(
        not torch.allclose(shortcut[name] / shortcut[name].max(), each / each.max()) for name, each in found.items()
    )


def test_labels_are_drawn_where_they_are_to_be(laboratory: Laboratory):
    preparation = laboratory.preparation("circles")
    model = preparation.tuned()
    own, drawn, free = (preparation.samples(kind, model, 12) for kind in ("gradients", "sampled", "task-free"))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(own, drawn, strict=True))
    assert [int(label) for _, label in own] != [int(label) for _, label in drawn]
    assert not any(torch.equal(a[0], b[0]) for a, b in zip(own, free, strict=True))


class Spy:
    """A laboratory that notes what is evaluated; accuracy on validation images grows with the value."""

    names = ("task",)
    sizes = SIZES

    def __init__(self) -> None:
        self.base: dict[str, Any] = {}
        self.asked: list[tuple[str, str]] = []

    def evaluation(self, key: str, part: str, tasks: Any, make: Any, limit: int | None) -> dict[str, Any]:
        self.asked.append((key, part))
        right = int(10 * float(key.partition("@")[2] or 0))
        return {"task": np.arange(10) < (right if part == VALIDATION else 10 - right)}


def test_selection_never_reads_test_images():
    merge = Merge("m", "m", "merging", ("task",), lambda laboratory, value: Made({}), values=(0.2, 0.8, 0.5))
    spy = Spy()
    assert chosen(spy, merge) == 0.8  # the worst on test
    assert {part for _, part in spy.asked} == {VALIDATION}
    outcome = run(spy, merge)
    assert [key for key, part in spy.asked if part == TEST] == ["m@0.8"]
    assert outcome.value == 0.8
    assert outcome.correct["task"].sum() == 2


def test_a_killed_run_goes_on(rows: list[dict[str, Any]], tmp_path: Path):
    program = [sys.executable, str(Path(__file__).with_name("small_suite.py")), str(tmp_path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(KILLED_AFTER):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.suffix in (".npz", ".safetensors")}
    finished = [path for path in done if not path.name.startswith(".")]
    assert len(finished) > KILLED_AFTER / 2
    running = suite(tmp_path)
    running.prepare()
    assert lasting(running.rows(SECTIONS)) == lasting(rows)
    assert all(path.stat().st_mtime_ns == done[path] for path in finished)


@pytest.fixture(scope="module")
def written(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    shutil.copyfile(results_page.PAGE, folder / "results.md")
    records.append(folder / "rows", rows)
    assert results_page.main([], page=folder / "results.md", results=folder / "rows") == 0
    return folder


@pytest.fixture
def page(written: Path, tmp_path: Path) -> tuple[Path, Path]:
    shutil.copytree(written, tmp_path / "docs")
    return tmp_path / "docs" / "results.md", tmp_path / "docs" / "rows"


def check(page: tuple[Path, Path]) -> int:
    return results_page.main(["--check"], page=page[0], results=page[1])


def test_the_page_is_that_of_its_rows(page: tuple[Path, Path], rows: list[dict[str, Any]]):
    assert check(page) == 0
    text = page[0].read_text(encoding="utf-8")
    average = next(row["average"]["mean"] for row in rows if row["contender"] == "sta_lp")
    assert f"STA as the paper has it (LP, p = 0.7) {100 * average:.1f} %" in text
    pictures = {path.name: path.stat().st_size for path in page[0].with_suffix("").iterdir()}
    assert set(pictures) == set(figures.panels(Recorded(rows)))
    assert max(pictures.values()) < 80_000


@pytest.mark.parametrize("what", ["number", "picture", "row"])
def test_a_stale_page_is_found(page: tuple[Path, Path], rows: list[dict[str, Any]], what: str):
    if what == "number":
        text = page[0].read_text(encoding="utf-8")
        page[0].write_text(
            text.replace("| pretrained |", "| pretrainee |", 1).replace("pretrained model gets ", "x", 1)
        )
    elif what == "picture":
        (page[0].with_suffix("") / "pairs.png").unlink()
    else:
        row = next(row for row in rows if row["contender"] == "sta_lp")
        records.append(page[1], [{**row, "average": {**row["average"], "mean": row["average"]["mean"] - 0.1}}])
    assert check(page) == 1


def test_the_committed_page_is_that_of_the_committed_rows():
    assert results_page.main(["--check"]) == 0


def test_what_cannot_be_had_is_left_out_with_a_word(monkeypatch, tmp_path: Path, capsys):
    def missing(cache: Path, say: tasks.Say) -> tasks.Pool:
        raise RunError("there is no npm here")

    monkeypatch.setattr(command, "pretrained", lambda cache: base())
    monkeypatch.setitem(tasks.SOURCES, "quickdraw", missing)
    monkeypatch.setitem(tasks.SOURCES, "mnist", lambda cache, say: pools()["circles"])
    arguments = ["--tasks", "quickdraw", "mnist", "--cache", str(tmp_path), "--only", "prepare", "--threads", "1"]
    assert command.main(arguments) == 2
    said = capsys.readouterr()
    assert "quickdraw is left out: there is no npm here" in said.out
    assert "merging needs 2 tasks, and 1 can be had" in said.err
