"""Tables of launches: written by tuning, looked up by launchers, ignored where they cannot be used."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sta_kernels.kernels.buffers import Buffer, DType
from sta_kernels.kernels.triton import sta_forget, sta_merge, taylor, tuned, tuning, weighted_sum
from sta_kernels.kernels.triton.config import LaunchConfig, elementwise_config
from sta_kernels.kernels.triton.tuned import TunedLaunch

DEVICE = torch.device("cpu")
F32, BF16 = DType.F32, DType.BF16
MERGE = [BF16, BF16, BF16, BF16, F32, F32]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, read anew."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tuned.table.cache_clear()
    yield tmp_path
    tuned.table.cache_clear()


def write(launches: dict[str, Any], device: str = "interpreter") -> Path:
    """A table made by hand."""
    path = tuned.path_of("interpreter")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"device": device, "launches": launches}))
    return path


def config(n_elements: int = 1 << 40, **changed: Any) -> LaunchConfig:
    """What the launcher of a merge of two tasks would take."""
    arguments: dict[str, Any] = {"device": DEVICE, "op": "sta_merge", "dtypes": MERGE, "variant": (2, "lp"), **changed}
    return elementwise_config([dtype.itemsize for dtype in MERGE], n_elements, **arguments)


def test_without_a_table_the_heuristic_decides(cache: Path):
    assert config() == elementwise_config([2, 4], 1 << 40) == LaunchConfig(1024, 32 * 1024, 4)


def test_a_table_overrides_it_for_its_op_tasks_and_dtypes_alone(cache: Path):
    write({"sta_merge 2 lp BF16*4 F32*2": {"block": 2048, "blocks": 5, "warps": 8}})
    assert config() == LaunchConfig(2048, 5 * 2048, 8)
    plain = elementwise_config([2, 4], 1 << 40)
    assert config(variant=(2, "lp_amp")) == config(variant=(6, "amp")) == plain
    assert config(op="weighted_sum") == config(dtypes=[*MERGE, F32]) == config(dtypes=[F32] * 6) == plain
    assert config(device=None) == plain


def test_small_tensors_keep_the_device_occupied(cache: Path):
    write({"sta_merge 2 lp BF16*4 F32*2": {"block": 2048, "blocks": 32, "warps": 8}})
    assert config(10_000) == LaunchConfig(2048, 2048, 8)
    assert config(2048 * 8 * 4096) == LaunchConfig(2048, 8 * 2048, 8)


def test_the_table_is_read_once(cache: Path):
    assert tuned.table("interpreter") == {}
    write({"sta_merge 2 lp BF16*4 F32*2": {"block": 2048, "blocks": 5, "warps": 8}})
    assert config().block == 1024
    with pytest.raises(TypeError):
        tuned.table("interpreter")["sta_merge"] = TunedLaunch(16, 1, 1)


@pytest.mark.parametrize(
    ("launches", "problem"),
    [
        ({"a": {"block": 1000, "blocks": 1, "warps": 4}}, "block: 1000"),
        ({"a": {"block": 1024, "blocks": 64, "warps": 4}}, "out of range"),
        ({"a": {"block": 4096, "blocks": 1, "warps": 16}}, "out of range"),  # of 255 registers per thread
        ({"a": {"block": 1024, "blocks": 0, "warps": 4}}, "blocks: 0"),
        ({"a": {"block": 1024, "blocks": 1}}, "no table of launches"),
        ({"a": 3}, "no table of launches"),
        ([], "no table of launches"),
    ],
)
def test_a_table_that_cannot_be_used_is_ignored_with_a_warning(cache: Path, launches: Any, problem: str):
    path = write(launches)
    with pytest.warns(RuntimeWarning, match=problem) as caught:
        assert config().block == 1024
    assert str(path) in str(caught[0].message)
    assert config().block == 1024  # and says so once


def test_a_table_of_another_device_or_no_json_is_ignored(cache: Path):
    write({}, device="another")
    with pytest.warns(RuntimeWarning, match="it is of 'another', not of 'interpreter'"):
        config()
    tuned.table.cache_clear()
    tuned.path_of("interpreter").write_text("{")
    with pytest.warns(RuntimeWarning, match="tune again"):
        config()


def test_what_is_saved_is_what_is_loaded(tmp_path: Path):
    launches = {"sta_merge 2 lp F32*6": TunedLaunch(512, 7, 2)}
    tuned.save(tmp_path / "new" / "table.json", "a device", launches, {"time": "now"})
    assert tuned.load(tmp_path / "new" / "table.json", "a device") == launches
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["table.json"]


def test_names_of_devices_make_file_names():
    assert tuned.path_of("NVIDIA H100 80GB HBM3").name == "nvidia-h100-80gb-hbm3.json"


def test_launchers_look_up(cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Each names its op and dtypes as tuning does: what tuning writes is found again."""
    asked: list[str] = []

    def lookup(device: torch.device, op: str, dtypes: Any, *variant: Any) -> None:
        asked.append(tuned.key(op, dtypes, *variant))

    monkeypatch.setattr(tuned, "lookup", lookup)
    one = Buffer.from_torch(torch.zeros(3, dtype=torch.bfloat16))
    score = Buffer.from_torch(torch.zeros(3))
    segment = sta_merge.MergeSegment(one, (one, one), (score, score), Buffer.from_torch(torch.zeros(3)))
    table = torch.tensor([[[0.0, 1.0]] * 2])
    sta_merge.launch_sta_merge(DEVICE, [segment], k=1, ties="drop", measure="lp", normaliser=table)
    for n, measure in ((3, "lp"), (6, "amp")):  # of as many operands each
        segment = sta_merge.MergeSegment(score, (score,) * n, (score,) * (6 - n), Buffer.from_torch(torch.zeros(3)))
        table = torch.tensor([[[0.0, 1.0]] * n])
        sta_merge.launch_sta_merge(DEVICE, [segment], k=1, ties="drop", measure=measure, normaliser=table)
    for base in (one, None):
        total = weighted_sum.SumSegment(base, (one, one), segment.out)
        weighted_sum.launch_weighted_sum(DEVICE, [total], weights=[1.0, 1.0], divisor=1.0, lambda_=1.0)
    for target in (one, Buffer.from_torch(torch.zeros(3, dtype=torch.bfloat16))):
        forget = sta_forget.ForgetSegment(target, one, one, score, Buffer.from_torch(torch.zeros(3).bfloat16()))
        thresholds = torch.zeros(1)
        sta_forget.launch_sta_forget(DEVICE, [forget], thresholds=thresholds, measure="lp", weight=1.0, lambda_=1.0)
    taylor.launch_taylor_accumulate(DEVICE, [(segment.out, one)])
    assert asked == [
        "sta_merge 2 lp BF16*1 F32*1 BF16*2 F32*2",
        "sta_merge 3 lp F32*8",
        "sta_merge 6 amp F32*8",
        "weighted_sum 2 based BF16*1 F32*1 BF16*2",
        "weighted_sum 2 baseless F32*2 BF16*2",
        "sta_forget lp base BF16*3 F32*1 BF16*1",
        "sta_forget lp merged BF16*3 F32*1 BF16*1",
        "taylor_accumulate F32*1 BF16*1",
    ]


def test_tuning_measures_every_candidate_and_keeps_the_fastest(cache: Path):
    clock = itertools.count(100, -1)
    lines: list[str] = []

    def measure(run: Callable[[], None]) -> float:
        return next(clock)  # each is faster than the one before

    launches = tuning.tune(DEVICE, 100, [2], ["lp"], measure, lines.append)
    assert set(launches) == {
        "sta_merge 2 lp F32*6",
        "sta_merge 2 lp BF16*4 F32*2",
        "sta_merge 2 lp BF16*6",
        "weighted_sum 2 based F32*4",
        "weighted_sum 2 baseless F32*4",
        "weighted_sum 2 based BF16*4",
        "weighted_sum 2 baseless BF16*4",
        "sta_forget lp base F32*5",
        "sta_forget lp merged F32*5",
        "sta_forget lp base BF16*3 F32*1 BF16*1",
        "sta_forget lp merged BF16*3 F32*1 BF16*1",
        "sta_forget lp base BF16*5",
        "sta_forget lp merged BF16*5",
        "taylor_accumulate F32*2",
        "taylor_accumulate F32*1 BF16*1",
        "taylor_accumulate BF16*2",
    }
    last = list(tuning.candidates([4]))[-1]
    assert launches["sta_merge 2 lp F32*6"] == last != next(tuning.candidates([4]))
    assert len(lines) == len(launches)


def test_what_tuning_measures_is_what_launchers_look_up(cache: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def lookup(device: torch.device, op: str, dtypes: Any, *variant: Any) -> None:
        asked.append(tuned.key(op, dtypes, *variant))

    monkeypatch.setattr(tuned, "lookup", lookup)
    measured = []
    for op, variant, dtypes, run in tuning.workloads(DEVICE, 100, [2], tuning.MEASURES):
        measured.append(tuned.key(op, dtypes, *variant))
        run(None)  # type: ignore[arg-type]  # as a launcher is called without a configuration
    assert asked == measured
    assert len(set(measured)) == len(measured)
    assert {"sta_merge 2 amp BF16*4", "sta_forget lp_amp merged F32*5"} < set(measured)


def test_candidates_differ_and_are_launchable():
    for itemsizes in ([4], [2, 4], [2]):
        launches = list(tuning.candidates(itemsizes))
        assert len(launches) == len(set(launches)) >= 12


def test_what_is_measured_first_is_what_the_heuristic_launches(cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Of many narrow models that belong to the measure, fewer elements per thread."""
    asked: list[LaunchConfig] = []

    def seen(*arguments: Any, **options: Any) -> LaunchConfig:
        asked.append(elementwise_config(*arguments, **options))
        return LaunchConfig(256, 256, 4)

    monkeypatch.setattr(sta_merge, "elementwise_config", seen)
    for workload in tuning.workloads(DEVICE, 100, [9, 10], tuning.MEASURES):
        if workload.op == "sta_merge":
            workload.run(None)  # type: ignore[arg-type]  # as a launcher is called without a configuration
            first = next(tuning.candidates(workload.itemsizes))
            assert (asked[-1].block, asked[-1].warps) == (first.block, first.warps), workload
    assert {config.block for config in asked} == {512, 1024}


def test_without_a_gpu_the_command_says_so(capsys: pytest.CaptureFixture[str]):
    assert tuning.main([]) == 2
    assert capsys.readouterr().err == "there is no GPU to measure launches on\n"
