"""Methods that rank rows get tiles of whole rows: the bits of the merge in memory, and a limit that is kept."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import sta_kernels as sk
from sta_kernels.engine import Plan, merge_checkpoints
from sta_kernels.engine.executor import Executor
from sta_kernels.errors import InputError

SHAPES = {"wide.weight": (40, 1536), "odd.weight": (500, 160), "conv.weight": (96, 16, 4, 4), "vector": (9000,)}
STEPS = {"wide.weight": 12288, "odd.weight": 20480, "conv.weight": 4096, "vector": 9000}
"""Elements of the least tile: whole rows, and whole leaves."""
CASES: dict[str, dict[str, Any]] = {
    "della": {"density": 0.5, "epsilon": 0.2, "seed": 3},
    "della_linear": {"density": 0.4, "rescale": "keep_rate", "weight": 0.5},
    "della_none": {"density": 0.6, "rescale": False, "normalize": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and three models."""
    root = tmp_path_factory.mktemp("rows")
    generator = torch.Generator().manual_seed(1)
    for name in ("base", "a", "b", "c"):
        (root / name).mkdir()
        tensors = {key: torch.randn(shape, generator=generator).bfloat16() for key, shape in SHAPES.items()}
        save_file(tensors, root / name / "model.safetensors")
    return root


def recipe(folder: Path, case: str) -> dict[str, Any]:
    method = "della_linear" if case == "della_linear" else "della"
    models = [{"model": str(folder / name)} for name in "abc"]
    return {"merge_method": method, "base_model": str(folder / "base"), "models": models, "parameters": CASES[case]}


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Ranges that are written."""
    seen: list[tuple[str, int, int]] = []
    finish = Executor.finish

    def recording(self: Executor, run: Any, start: int, stop: int, arena: Any) -> int:
        seen.append((run.job.tensor, start, stop))
        return finish(self, run, start, stop, arena)

    monkeypatch.setattr(Executor, "finish", recording)
    return seen


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("case", CASES)
def test_tiles_of_whole_rows(
    folder: Path,
    case: str,
    threads: int,
    tiles: list[tuple[str, int, int]],
    tmp_path: Path,
    shrink_buffers: Callable[..., None],
) -> None:
    shrink_buffers(100 << 10, tile=100 << 10)
    merge_checkpoints(recipe(folder, case), tmp_path / "out", threads=threads, max_memory="2GB")
    base, *models = (load_file(folder / name / "model.safetensors") for name in ("base", "a", "b", "c"))
    parameters = dict(CASES[case])
    want = sk.merge(base, models, method="della_linear" if case == "della_linear" else "della", **parameters)
    got = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in want.items():
        assert torch.equal(got[name].view(torch.int16), tensor.view(torch.int16)), name
        mine = [(start, stop) for tensor, start, stop in tiles if tensor == name]
        assert all(start % STEPS[name] == 0 for start, _ in mine), name
        assert len(mine) > 1 or name == "vector", name


def test_a_row_that_does_not_fit_is_refused_with_the_limit_that_would_do(tmp_path: Path) -> None:
    """Files with nothing in them but headers: a plan reads no more."""
    n = 1 << 27
    header = json.dumps({"w": {"dtype": "BF16", "shape": [n], "data_offsets": [0, 2 * n]}}).encode()
    for name in ("base", "model"):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + 2 * n)
    given = {
        "merge_method": "della",
        "base_model": str(tmp_path / "base"),
        "models": [{"model": str(tmp_path / "model")}],
        "parameters": {"density": 0.5},
    }
    with pytest.raises(InputError, match=r"max_memory: 3,000,000,000 bytes is too little.*at least \d+MB"):
        merge_checkpoints(given, tmp_path / "out", dry_run=True, max_memory="3GB", threads=1)
    plan = merge_checkpoints(given, tmp_path / "out", dry_run=True, max_memory="16GB", threads=1)
    assert isinstance(plan, Plan)
    operands, mask, ranking = 3 * 2 * n, 4 * n, 48 * n
    assert plan.budget.peak > operands + mask + ranking
