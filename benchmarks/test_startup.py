"""Start-up of the command line, as whole processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from benchmarks import checkpoints, processes, records
from benchmarks.harness import Contender, Contest

N_MODELS = 5
# What every start has in it: Python alone, and with what reads a plan's numbers.
PYTHON = ("python", [sys.executable, "-c", "pass"])
NUMPY = ("python, numpy", [sys.executable, "-c", "import numpy"])


def run(arguments: Sequence[str]) -> str:
    done = subprocess.run(
        arguments, cwd=records.HERE, env=processes.environment(), stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def contenders(name: str, arguments: Sequence[str]) -> list[Contender]:
    commands = {name: [*records.program(), *arguments]} | dict((PYTHON, NUMPY))
    return [Contender(each, partial(run, command)) for each, command in commands.items()]


@pytest.fixture
def five_models(tmp_path: Path) -> Path:
    """A recipe of five models of 340 M elements and 146 tensors each, with importances; its path."""
    shapes = checkpoints.transformer(340_000_000)
    paths = [tmp_path / name for name in ("base", *map(str, range(N_MODELS)))]
    for path in paths:
        path.mkdir()
        checkpoints.write_hollow(path / "model.safetensors", shapes, "BF16")
        checkpoints.write_hollow(path / "importance.safetensors", shapes, "F32")
    recipe = tmp_path / "recipe.yaml"
    base, *models = paths
    recipe.write_text(json.dumps(checkpoints.recipe(base, {m: m / "importance.safetensors" for m in models})))
    return recipe


def test_version(contest: Contest) -> None:
    name = "sta-kernels --version"
    ours, *others = contenders(name, ["--version"])
    assert str(ours.run()).startswith("sta-kernels ")
    contest("startup", (ours, *others), {"command": name})


def test_plan(contest: Contest, five_models: Path) -> None:
    name = "sta-kernels merge --dry-run"
    ours, *others = contenders(name, ["merge", str(five_models), str(five_models.with_name("out")), "--dry-run"])
    plan = str(ours.run())
    assert all(str(five_models.with_name(str(i))) in plan for i in range(N_MODELS))
    contest("startup", (ours, *others), {"command": name, "models": N_MODELS})
