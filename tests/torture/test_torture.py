"""A few of each of the torture's trials: kills, power cuts, signals, full disks, failing calls, rivals."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torture.models import RECIPES, Checkpoints
from torture.runs import Case, built_shim
from torture.trials import calls_of, faults, full_disks, kills, signals

pytestmark = [
    pytest.mark.skipif(os.name != "posix" or shutil.which("cc") is None, reason="needs a C compiler and POSIX"),
    pytest.mark.xdist_group("torture"),
]


def silent(text: str) -> None:
    """Nobody waits for a test's progress."""


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoints, Path, Path, Path]:
    """Small models, a folder, the shim and its log."""
    work = tmp_path_factory.mktemp("torture")
    return Checkpoints(work / "models", 0.5), work, built_shim(work), work / "calls.log"


@pytest.mark.parametrize("name", RECIPES)
def test_killed(setting: Any, name: str) -> None:
    checkpoints, work, shim, log = setting
    case = Case(checkpoints, name, work)
    counts = kills(case, shim, log, 2, np.random.default_rng(len(name)), silent)
    assert counts["totals"]["kills"] >= 2
    assert counts["totals"]["resumed to the same bits"] >= 1


def test_signals_full_disks_and_failing_calls(setting: Any) -> None:
    checkpoints, work, shim, log = setting
    case = Case(checkpoints, "ties", work)
    generator = np.random.default_rng(1)
    assert sum(signals(case, 2, generator)["totals"].values()) == 2
    assert sum(full_disks(case, shim, work, 3, generator, silent)["totals"].values()) == 3
    assert sum(faults(case, shim, log, 60, silent)["totals"].values()) > 10


def test_a_journal_without_its_first_line_is_in_nobodys_way(setting: Any) -> None:
    checkpoints, work, _, _ = setting
    case = Case(checkpoints, "linear", work)
    case.clear()
    case.out.mkdir()
    (case.out / ".sta-kernels.journal").touch()
    (case.out / ".model.safetensors.partial").write_bytes(b"begun")
    case.resume()


def test_files_are_synced_before_they_take_their_names_and_the_manifest_is_last(setting: Any) -> None:
    """What a power cut could otherwise show: a name without the bytes, or a manifest without the files."""
    checkpoints, work, shim, log = setting
    case = Case(checkpoints, "sta", work)
    calls = calls_of(case, shim, log)
    renamed = [other for call, _, other in calls if call == "rename"]
    assert set(renamed) == {str(case.out / name) for name in case.whole}
    assert renamed[-1].endswith("sta_kernels_manifest.json")
    for i, (call, path, _) in enumerate(calls):
        if call == "rename":
            own = [
                name for name, of, _ in calls[:i] if of == path and name in ("write", "pwrite", "ftruncate", "fsync")
            ]
            assert own[-1] == "fsync", path
            assert calls[i + 1 :][[c[0] for c in calls[i + 1 :]].index("fsync")][1] == str(case.out), path
    shards = [i for i, (call, _, other) in enumerate(calls) if call == "rename" and other.endswith(".safetensors")]
    synced = [i for i, (call, path, _) in enumerate(calls) if call == "fsync" and path.endswith(".journal")]
    assert len(synced) == 1
    assert synced[0] < shards[0]


def test_a_rival_is_refused(setting: Any) -> None:
    checkpoints, work, _, _ = setting
    case = Case(checkpoints, "model_stock", work)
    case.clear()
    rivals = [case.start() for _ in range(3)]
    ended = [(rival.communicate()[1], rival.returncode) for rival in rivals]
    assert any(code == 0 for _, code in ended)
    for said, code in ended:
        assert code == 0 or (code == 2 and "another merge is writing there" in said), said
    case.resume()
