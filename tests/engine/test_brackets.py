"""Order statistics of what streams by: whatever a sample tells, the result is that of counting every digit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sta_kernels.checkpoint import hash_file
from sta_kernels.engine import Manifest, memory, merge_checkpoints
from sta_kernels.engine.flow import FlowExecutor
from sta_kernels.engine.output import Shards
from sta_kernels.engine.runs import JobRun, Reading
from sta_kernels.errors import InputError
from sta_kernels.kernels.native_flow import can_flow
from sta_kernels.methods import bracket
from sta_kernels.methods.accumulators import CutAccumulator

pytestmark = pytest.mark.skipif(not can_flow(), reason="this system has no positioned reads")

SHAPE = (300, 401)
RECIPES = {
    "ties": ("ties", {"density": 0.2}, {}),
    "ties_model": ("ties", {"density": 0.37}, {"scope": "model"}),
    "breadcrumbs": ("breadcrumbs", {"density": 0.8, "gamma": 0.05}, {}),
    "pcb": ("pcb", {}, {"ratio": 0.1}),
}


def normal(generator: torch.Generator, deviation: float) -> torch.Tensor:
    return torch.randn(SHAPE, generator=generator) * deviation


def waves(generator: torch.Generator, deviation: float) -> torch.Tensor:
    """Most of what is large lies where no run of the sample does."""
    where = torch.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) % 4096 < 1024
    return torch.where(where, 0.01, 1.0) * normal(generator, deviation)


def steps(generator: torch.Generator, deviation: float) -> torch.Tensor:
    return (normal(generator, 2.0)).round() * deviation


def rising(generator: torch.Generator, deviation: float) -> torch.Tensor:
    return torch.linspace(0, deviation, SHAPE[0] * SHAPE[1]).reshape(SHAPE)


def constant(generator: torch.Generator, deviation: float) -> torch.Tensor:
    return torch.full(SHAPE, deviation)


def holes(generator: torch.Generator, deviation: float) -> torch.Tensor:
    """Few values, and NaN, which a sort has above all others and a threshold does not."""
    value = torch.randint(8, SHAPE, generator=generator) * deviation
    return torch.where(torch.rand(SHAPE, generator=generator) < 0.01, torch.nan, value)


KINDS = {
    "continuous": (normal, torch.float32),
    "tied": (normal, torch.bfloat16),
    "waves": (waves, torch.float32),
    "steps": (steps, torch.float32),
    "rising": (rising, torch.float32),
    "constant": (constant, torch.bfloat16),
    "holes": (holes, torch.float32),
}


def write(folder: Path, kind: str) -> list[str]:
    make, dtype = KINDS[kind]
    generator = torch.Generator().manual_seed(11)
    base = {f"layers.{i}.weight": torch.randn(SHAPE, generator=generator) * 0.02 for i in range(2)}
    base["norm"] = torch.ones(401)
    paths = [str(folder / name) for name in ("base", "a", "b")]
    for path in paths:
        Path(path).mkdir()
        changed = {
            name: value + (0 if path == paths[0] or name == "norm" else make(generator, 1e-4))
            for name, value in base.items()
        }
        save_file({name: value.to(dtype) for name, value in changed.items()}, f"{path}/model.safetensors")
    return paths


def merged(paths: list[str], recipe: str, kind: str, out: Path) -> dict[str, torch.Tensor]:
    method, own, shared = RECIPES[recipe]
    models = [{"model": path, "parameters": own} for path in paths[1:]]
    given = {"merge_method": method, "base_model": paths[0], "models": models, "parameters": shared}
    merge_checkpoints(given, out, threads=2, max_memory="2GB", out_shard_size="1GB", allow_nonfinite=kind == "holes")
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_brackets_change_nothing(
    recipe: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shrink_buffers: Callable[..., None]
) -> None:
    """With little room, so that lists overflow; with a sample that misses; with ties at every value."""
    paths = write(tmp_path, kind)
    shrink_buffers(160 << 10, tile=150 << 10)
    monkeypatch.setattr(bracket, "LEAST", 1 << 60)
    want = merged(paths, recipe, kind, tmp_path / "digits")
    used: list[bool] = []
    end_of_pass = bracket.BracketAccumulator.end_of_pass

    def ends(self: Any) -> bool:
        ended = end_of_pass(self)
        if ended and not self._counts_digits:
            used.append(True)
        return ended

    monkeypatch.setattr(bracket.BracketAccumulator, "end_of_pass", ends)
    monkeypatch.setattr(bracket, "_SAMPLE", 1 << 14)
    monkeypatch.setattr(bracket, "LEAST", 1000)
    for most in (1 << 20, 20_000):
        monkeypatch.setattr(bracket, "_MOST", most)
        got = merged(paths, recipe, kind, tmp_path / f"bracket-{most}")
        assert got.keys() == want.keys()
        for name, tensor in want.items():
            assert torch.equal(got[name].view(torch.uint8), tensor.view(torch.uint8)), name
    assert used or kind in ("waves", "holes")


def test_a_value_is_found_in_two_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample, and one read of everything, for each of two tensors and two models: no digit is counted."""
    counted: list[int] = []
    passes: dict[int, int] = {}
    end_of_pass = bracket.BracketAccumulator.end_of_pass

    def ends(self: Any) -> bool:
        passes[id(self)] = passes.get(id(self), 0) + 1
        held.append(self)
        return end_of_pass(self)

    held: list[Any] = []  # so that no two of them have the same address
    monkeypatch.setattr(bracket.BracketAccumulator, "end_of_pass", ends)
    paths = write(tmp_path, "continuous")
    monkeypatch.setattr(bracket, "LEAST", 1000)
    monkeypatch.setattr(bracket, "_SAMPLE", 1 << 14)
    monkeypatch.setattr(bracket.SelectAccumulator, "take", lambda *_, **__: counted.append(1))
    small = replace(memory.SIZES["native"], arena=1 << 20, tile=1 << 19)
    monkeypatch.setattr(memory, "SIZES", {**memory.SIZES, "native": small})
    merged(paths, "ties", "continuous", tmp_path / "out")
    assert not counted
    assert list(passes.values()) == [2] * 4


def test_a_window_that_cannot_be_widened_is_not_tried_again() -> None:
    """What the room allows is what the first try took: the digits are counted at once."""
    accumulator = bracket.BracketAccumulator(1 << 28, 400 << 20)
    accumulator._sample = [np.arange(1 << 21, dtype=np.uint32)]
    assert not accumulator.end_of_pass()
    assert accumulator._window is not None
    assert not accumulator.end_of_pass()  # nothing was set aside: the window missed
    assert accumulator._counts_digits


def test_ties_may_end_where_a_tile_does(tmp_path: Path, shrink_buffers: Callable[..., None]) -> None:
    """All entries are equal, and those that are kept end with a tile of the pass that set keys aside."""
    size, tile = 1 << 19, 1 << 17
    for name, value in (("base", 0.0), ("a", 1.0)):
        (tmp_path / name).mkdir()
        save_file({"w": torch.full((size,), value)}, tmp_path / name / "model.safetensors")
    shrink_buffers(1 << 20, tile=tile * 8 + 2 * 4096)
    for kept in (tile - 4096, tile - 1, tile, tile + 1, 2 * tile, size - 1):
        entry = {"model": str(tmp_path / "a"), "parameters": {"density": (kept + 0.5) / size}}
        recipe = {"merge_method": "ties", "base_model": str(tmp_path / "base"), "models": [entry]}
        merge_checkpoints(recipe, tmp_path / f"out{kept}", max_memory="1GB")
        merged = load_file(tmp_path / f"out{kept}" / "model.safetensors")["w"]
        assert torch.equal(merged, (torch.arange(size) < kept).float())


def test_ties_may_end_where_a_part_of_a_tile_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All entries are equal, in one tile: where those that are kept end is found in a part of it, as it is merged."""
    size = 1 << 20
    for name, value in (("base", 0.0), ("a", 1.0)):
        (tmp_path / name).mkdir()
        save_file({"w": torch.full((size,), value)}, tmp_path / name / "model.safetensors")
    looked: list[tuple[int, int]] = []
    look_within = CutAccumulator.look_within

    def looks(self: CutAccumulator, start: int, stop: int, ties: int) -> None:
        looked.append((start, stop))
        look_within(self, start, stop, ties)

    monkeypatch.setattr(CutAccumulator, "look_within", looks)

    def check(kept: int) -> None:
        entry = {"model": str(tmp_path / "a"), "parameters": {"density": (kept + 0.5) / size}}
        recipe = {"merge_method": "ties", "base_model": str(tmp_path / "base"), "models": [entry]}
        merge_checkpoints(recipe, tmp_path / f"out{kept}", max_memory="1GB")
        merged = load_file(tmp_path / f"out{kept}" / "model.safetensors")["w"]
        assert torch.equal(merged, (torch.arange(size) < kept).float())

    passes: list[int | None] = []
    reduce = FlowExecutor.reduce

    def reduces(self: FlowExecutor, reading: Reading, *rest: Any) -> int:
        passes.append(reading.stride)
        return reduce(self, reading, *rest)

    monkeypatch.setattr(FlowExecutor, "reduce", reduces)
    check(size // 2)
    assert [stride is None for stride in passes] == [False, True]  # a sample, and what is set aside
    ((start, stop),) = looked
    assert 0 < start < size // 2 <= stop < size
    assert stop - start <= size // 4
    for kept in (start - 1, start, start + 1, stop - 1, stop, stop + 1):
        check(kept)


def test_changes_in_a_few_rows_need_no_further_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that differs from the base, and so all keys of the window, lie in the first part of the tile."""
    size, changed = 1 << 20, 1 << 17
    value = torch.zeros(size)
    value[:changed] = torch.randn(changed, generator=torch.Generator().manual_seed(5))
    for name, tensor in (("base", torch.zeros(size)), ("a", value)):
        (tmp_path / name).mkdir()
        save_file({"w": tensor}, tmp_path / name / "model.safetensors")
    monkeypatch.setattr(bracket.SelectAccumulator, "take", lambda *_, **__: pytest.fail("digits are counted"))
    entry = {"model": str(tmp_path / "a"), "parameters": {"density": 0.06}}
    recipe = {"merge_method": "ties", "base_model": str(tmp_path / "base"), "models": [entry]}
    merge_checkpoints(recipe, tmp_path / "out", max_memory="1GB")
    merged = load_file(tmp_path / "out" / "model.safetensors")["w"]
    least = value.abs().sort(descending=True).values[int(0.06 * size) - 1]
    assert torch.equal(merged, torch.where(value.abs() >= least, value, 0.0))


def test_ties_end_within_tiles_of_another_pass(tmp_path: Path, shrink_buffers: Callable[..., None]) -> None:
    """Two ranks of one task, a task that is not cut, and dtypes that differ: each pass has tiles of its own."""
    generator = torch.Generator().manual_seed(3)
    base = (torch.randn(1 << 19, generator=generator) * 0.02).bfloat16()
    steps = torch.randn(1 << 19, generator=generator) * 1e-4
    for name, value in (("base", base), ("a", base.float() + steps), ("b", (base.float() + steps).bfloat16())):
        (tmp_path / name).mkdir()
        save_file({"w": value}, tmp_path / name / "model.safetensors")
    shrink_buffers(1 << 20, tile=600_000)
    results = []
    for least in (1 << 60, 1 << 18):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bracket, "LEAST", least)
            for density in (0.45, 0.62):
                models = [
                    {"model": str(tmp_path / "a"), "parameters": {"density": 0.5, "gamma": 0.0}},
                    {"model": str(tmp_path / "b"), "parameters": {"density": density, "gamma": 0.1}},
                ]
                recipe = {"merge_method": "breadcrumbs", "base_model": str(tmp_path / "base"), "models": models}
                out = tmp_path / f"out{least}-{density}"
                merge_checkpoints({**recipe, "dtype": "float32"}, out, max_memory="1GB")
                results.append(load_file(out / "model.safetensors")["w"])
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[3])


def test_a_model_that_overflows_is_found_in_tiles_that_fit(tmp_path: Path, shrink_buffers: Callable[..., None]) -> None:
    """The search for it looks at tiles as a whole, not at slices."""
    for name, value in (("base", -3e38), ("a", 3e38)):
        (tmp_path / name).mkdir()
        save_file({"w": torch.full((1 << 19,), value)}, tmp_path / name / "model.safetensors")
    shrink_buffers(400 << 10, tile=300 << 10)
    monkeypatched = {**memory.SIZES, "native": replace(memory.SIZES["native"], flow=4 << 20)}
    entry = {"model": str(tmp_path / "a"), "parameters": {"density": 0.5}}
    recipe = {"merge_method": "ties", "base_model": str(tmp_path / "base"), "models": [entry]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "SIZES", monkeypatched)
        with pytest.raises(InputError, match="'w': its task vector overflows float32"):
            merge_checkpoints({**recipe, "parameters": {"scope": "model"}}, tmp_path / "out", max_memory="1GB")


def test_layers_of_one_file_are_merged_with_each_other(tmp_path: Path) -> None:
    """Two operands of a job are in one file, of which the manifest has the right digest."""
    generator = torch.Generator().manual_seed(1)
    tensors = {f"model.layers.{i}.w": torch.randn(1 << 19, generator=generator) for i in range(2)}
    (tmp_path / "a").mkdir()
    save_file(tensors, tmp_path / "a" / "model.safetensors")
    (tmp_path / "a" / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2}')
    sources = [
        {"model": str(tmp_path / "a"), "layer_range": [i, i + 1], "parameters": {"weight": 0.5}} for i in range(2)
    ]
    manifest = merge_checkpoints({"merge_method": "linear", "slices": [{"sources": sources}]}, tmp_path / "out")
    assert isinstance(manifest, Manifest)
    (file,) = manifest.inputs[0]["files"]
    assert file["digest"] == hash_file(file["path"])[1].hex()
    want = sum(tensors.values()) / 2
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["model.layers.0.w"], want)


@pytest.mark.parametrize(
    ("written", "seeks"),
    [([(0, 1 << 16)], True), ([(1 << 16, 1 << 18), (3 << 18, 1 << 20)], True), ([(0, (1 << 19) - 4096)], False)],
    ids=["before", "around", "within"],
)
def test_a_merge_that_goes_on_finds_where_ties_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: list[tuple[int, int]], seeks: bool
) -> None:
    """The part in which ties end is all left to be written; or some of it is done, and the place is looked up first."""
    size = 1 << 20
    for name, value in (("base", 0.0), ("a", 1.0)):
        (tmp_path / name).mkdir()
        save_file({"w": torch.full((size,), value)}, tmp_path / name / "model.safetensors")
    found: list[bool] = []
    seek = JobRun._seek_while_merging

    def seeking(self: JobRun) -> None:
        pending = any(isinstance(each, CutAccumulator) for _, each in self.pending.values())
        seek(self)
        if pending:
            found.append(not self.pending)

    monkeypatch.setattr(JobRun, "_seek_while_merging", seeking)
    monkeypatch.setattr(Shards, "kept", lambda *_: [(*each, ()) for each in written])
    kept = size // 2 + 5
    entry = {"model": str(tmp_path / "a"), "parameters": {"density": (kept + 0.5) / size}}
    recipe = {"merge_method": "ties", "base_model": str(tmp_path / "base"), "models": [entry]}
    merge_checkpoints(recipe, tmp_path / "out", max_memory="1GB")
    merged = load_file(tmp_path / "out" / "model.safetensors")["w"]
    left = torch.ones(size, dtype=torch.bool)
    for start, stop in written:
        left[start:stop] = False
    assert torch.equal(merged[left], (torch.arange(size) < kept).float()[left])
    assert found == [seeks]
