"""Killed at any instant, a merge leaves nothing half-written under a final name, and goes on to the same bits."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sta_kernels.engine import Manifest, Plan, merge_checkpoints
from sta_kernels.engine.journal import JOURNAL_NAME, Journal
from sta_kernels.engine.lock import LOCK_NAME

SCRIPT = Path(__file__).with_name("killed_merge.py")


def run(recipe: dict[str, Any], out: Path, point: str = "never", count: float = 0) -> dict[str, Any] | None:
    """Merge in a process of its own; None where it was killed."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(recipe), str(out), point, str(count)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.fixture(scope="module")
def undisturbed(mixed_models: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A recipe, and what it gives when nothing happens."""
    recipe = mixed_models.recipe("sta", parameters={"p": 0.5})
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    result = run(recipe, out)
    assert result is not None
    assert result["differences"] == []
    return recipe, contents(out)


def assert_nothing_half_written(out: Path, whole: dict[str, bytes]) -> None:
    for name, content in contents(out).items() if out.exists() else ():
        if not name.startswith("."):
            assert content == whole[name], name


POINTS = [("record", count) for count in (1, 2, 5, 9, 14)]
POINTS += [(point, count) for point in ("before", "after") for count in (1, 2, 4, 8)]


@pytest.mark.parametrize(("point", "count"), POINTS)
def test_killed_once(undisturbed: Any, point: str, count: int, tmp_path: Path) -> None:
    recipe, whole = undisturbed
    out = tmp_path / "out"
    assert run(recipe, out, point, count) is None
    assert_nothing_half_written(out, whole)
    result = run(recipe, out)
    assert result is not None
    assert contents(out) == whole
    assert result["differences"] == []
    if point != "record" and count < 8:
        assert result["kept_bytes"] >= 40_000  # all weights were written before any file got its name


def test_killed_again_and_again(undisturbed: Any, tmp_path: Path) -> None:
    """Each run gets a little further, with tiles of both runs in one tensor."""
    recipe, whole = undisturbed
    out = tmp_path / "out"
    for _ in range(12):
        result = run(recipe, out, "record", 7)
        assert_nothing_half_written(out, whole)
        if result is not None:
            break
    else:
        result = run(recipe, out)
    assert result is not None
    assert contents(out) == whole
    assert result["kept_bytes"] > 0


def test_killed_at_random(undisturbed: Any, tmp_path: Path) -> None:
    recipe, whole = undisturbed
    generator = random.Random(3)
    for i in range(4):
        out = tmp_path / str(i)
        run(recipe, out, "second", 0.1 + 0.1 * generator.random())
        assert_nothing_half_written(out, whole)
        run(recipe, out)
        assert contents(out) == whole


def test_what_was_damaged_meanwhile_is_redone(undisturbed: Any, tmp_path: Path) -> None:
    recipe, whole = undisturbed
    out = tmp_path / "out"
    assert run(recipe, out, "before", 1) is None
    (partial,) = out.glob(".model-00001*.partial")
    data = bytearray(partial.read_bytes())
    data[len(data) // 2] ^= 1
    partial.write_bytes(data)
    journal = out / JOURNAL_NAME
    journal.write_bytes(journal.read_bytes() + b'{"tile": [0, 0')  # and the journal was cut off
    assert run(recipe, out) is not None
    assert contents(out) == whole


def test_a_journal_that_claims_too_much_is_not_believed(undisturbed: Any, tmp_path: Path) -> None:
    recipe, whole = undisturbed
    out = tmp_path / "out"
    assert run(recipe, out, "before", 1) is None
    for partial in out.glob(".*.partial"):
        partial.write_bytes(bytes(partial.stat().st_size))
    result = run(recipe, out)
    assert result is not None
    assert result["kept_bytes"] == 0
    assert contents(out) == whole


def test_an_interrupt_stops_cleanly_and_can_be_resumed(mixed_models: Any, tmp_path: Path) -> None:
    recipe = mixed_models.recipe("sta", parameters={"p": 0.5})
    out = tmp_path / "out"

    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_checkpoints(recipe, out, progress=interrupt)
    names = {path.name for path in out.iterdir()}
    assert JOURNAL_NAME in names
    assert LOCK_NAME not in names
    assert all(name.startswith(".") for name in names)
    result = merge_checkpoints(recipe, out)
    assert isinstance(result, Manifest)
    assert not any(path.name.startswith(".") for path in out.iterdir())


def test_a_finished_merge_is_left_alone(mixed_models: Any, tmp_path: Path) -> None:
    recipe = mixed_models.recipe("sta", parameters={"p": 0.5})
    out = tmp_path / "out"
    merge_checkpoints(recipe, out)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    again = merge_checkpoints(recipe, out, threads=1, max_memory="1GB")
    assert isinstance(again, Manifest)
    assert again.already_finished
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_the_manifest_names_the_devices_before(mixed_models: Any, tmp_path: Path) -> None:
    recipe = mixed_models.recipe("sta", split={"*.in_proj_weight": 3})
    out = tmp_path / "out"
    plan = merge_checkpoints(recipe, out, dry_run=True)
    assert isinstance(plan, Plan)
    out.mkdir()
    elsewhere = {"device": "cuda:0", "backend": "triton", "reason": "asked for by the caller; Some GPU"}
    journal = Journal(out / JOURNAL_NAME, plan.identity)
    for placement in (elsewhere, plan.placement.to_json(), elsewhere):
        journal.served(placement)
    journal.close(remove=False)
    manifest = merge_checkpoints(recipe, out)
    assert isinstance(manifest, Manifest)
    assert manifest.served_by == plan.placement.to_json()
    assert manifest.served_before == (elsewhere,)
    assert manifest.summary()["devices_before"] == ["cuda:0"]
    assert manifest.summary()["tensors_merged"] == plan.summary()["tensors_merged"] < len(manifest.tensors)
    read = merge_checkpoints(recipe, out)
    assert isinstance(read, Manifest)
    assert read.served_before == (elsewhere,)
