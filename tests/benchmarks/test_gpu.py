"""The command of the GPU benchmark on a machine without a GPU, and the models that it measures elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.gpu.shapes import MODELS, fitting

ROOT = Path(__file__).parents[2]
PARAMETERS = {"ViT-B/16-like": 86_192_640, "ViT-L/14-like": 303_966_208, "7B-like": 6_738_415_616}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_without_a_gpu_it_says_so_in_one_line():
    done = run()
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "there is no GPU to measure on\n")


def test_the_picture_can_be_drawn_anywhere(tmp_path: Path):
    done = run("--plot-only", "--results", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "no rows to draw\n")


@pytest.mark.parametrize("name", MODELS)
def test_sizes_are_those_of_real_models(name: str):
    assert sum(MODELS[name]()) == PARAMETERS[name]


def test_a_part_that_fits():
    assert fitting([5, 3, 2], 10, 80) == [5, 3]
    assert fitting([5, 3, 2], 10, 100) == [5, 3, 2]
    with pytest.raises(ValueError, match="5 elements"):
        fitting([5, 3], 10, 49)
