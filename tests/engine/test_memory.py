"""The bound on anonymous memory holds for the whole process, and the sizes that callers write are understood."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sta_kernels.engine import memory
from sta_kernels.engine.memory import Arena, Budget, parse_size
from sta_kernels.errors import InputError

MERGE = """
import json, sys
from sta_kernels.engine import merge_checkpoints
result = merge_checkpoints(json.loads(sys.argv[1]), sys.argv[2], max_memory=sys.argv[3])
print(result.files["model.safetensors"]["digest"])
"""


def write(path: Path, dtype: str, values: np.ndarray[Any, Any]) -> None:
    """A file of one tensor; written here, since NumPy has no bfloat16 for the format's library."""
    entry = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [0, values.nbytes]}
    header = json.dumps({"w": entry}).encode()
    header += b" " * (-len(header) % 8)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header + values.tobytes())


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One tensor of 3.2 M elements: 6.4 MB in bfloat16, 58 MB with all operands of three models."""
    folder = tmp_path_factory.mktemp("large")
    generator = np.random.default_rng(1)
    shape = (800, 4000)
    models = []
    for name in ("base", "0", "1", "2"):
        bits = (generator.standard_normal(shape, np.float32).view(np.uint32) >> 16).astype(np.uint16)
        write(folder / name / "model.safetensors", "BF16", bits)
        if name != "base":
            importance = folder / name / "importance.safetensors"
            write(importance, "F32", np.abs(generator.standard_normal(shape, np.float32)))
            models.append({"model": str(folder / name), "parameters": {"importance": str(importance)}})
    return {"merge_method": "sta", "base_model": str(folder / "base"), "models": models}


def measured(recipe: dict[str, Any], out: Path, limit: str) -> tuple[int, str]:
    """Highest RssAnon of a merge in a process of its own, sampled every few milliseconds, and the output's digest."""
    command = [sys.executable, "-c", MERGE, json.dumps(recipe), str(out), limit]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    highest = 0
    while process.poll() is None:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                highest = max(highest, int(line.split()[1]) * 1024)
        time.sleep(0.002)
    assert process.stdout is not None
    assert process.returncode == 0
    return highest, process.stdout.read()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell anonymous memory")
def test_bound_and_bits(large: dict[str, Any], tmp_path: Path) -> None:
    digests = set()
    for limit in ("192MB", "256MB", "2GB"):
        highest, digest = measured(large, tmp_path / limit, limit)
        assert highest < parse_size(limit, "limit")
        digests.add(digest)
    assert highest < 58_000_000  # what flows takes no more where there is room: the segment alone is larger
    assert len(digests) == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell anonymous memory")
def test_masks_and_the_ranking_of_rows_are_within_the_bound(large: dict[str, Any], tmp_path: Path) -> None:
    models = [{"model": model["model"]} for model in large["models"]]
    recipe = {**large, "merge_method": "della", "models": models, "parameters": {"density": 0.5}}
    digests = set()
    for limit in ("192MB", "2GB"):
        highest, digest = measured(recipe, tmp_path / limit, limit)
        assert highest < parse_size(limit, "limit")
        digests.add(digest)
    assert len(digests) == 1


@pytest.mark.parametrize("kind", memory.SIZES)
def test_many_models_under_the_least_limit(kind: str) -> None:
    """What is planned stays under the limit for any number of workers."""
    sizes = memory.SIZES[kind]
    for threads in (1, 2, 16, 64):
        budget = Budget.plan(memory.LEAST + memory.anonymous_bytes(), threads, kind, [10 << 30])
        assert 1 <= budget.threads <= threads
        assert sizes.least <= budget.arena <= sizes.arena
        assert budget.peak <= budget.limit
        assert budget.device == sizes.on_device * budget.threads * budget.arena


def test_buffers_that_are_pinned_are_powers_of_two() -> None:
    """An allocator of pinned memory rounds up to them: any other size would take more than was planned."""
    for wanted in (0, 33 << 20, 40 << 20, 100 << 20, 10 << 30):
        budget = Budget.plan("8GB", 4, "cuda", [wanted], 40 << 30)
        assert budget.arena & (budget.arena - 1) == 0
        assert budget.arena >= min(wanted, memory.SIZES["cuda"].arena)


def test_a_device_is_not_filled() -> None:
    """Half of what is free on it may be taken; where that is little, by fewer workers."""
    for free, threads in ((16 << 20, 1), (100 << 20, 6), (8 << 30, 8)):
        budget = Budget.plan("8GB", 8, "cuda", [10 << 30], free)
        assert budget.threads == threads
        assert 0 < budget.device <= free // 2
    with pytest.raises(InputError, match=r"device: only 16,777,215 bytes are free on it; 16,777,216 are needed"):
        Budget.plan("8GB", 8, "cuda", [], (16 << 20) - 1)


def test_a_twin_in_main_memory_counts() -> None:
    plain, twice = (Budget.plan("2GB", 4, kind, [64 << 20]) for kind in ("reference", "interpret"))
    assert plain.arena == twice.arena == 64 << 20
    assert twice.peak - twice.baseline - (plain.peak - plain.baseline) == 4 * plain.arena


def test_a_process_that_holds_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "anonymous_bytes", lambda: 10 << 30)
    with pytest.raises(
        InputError, match=r"too little; this process holds 10,737,418,240 already: give it at least 10790MB"
    ):
        Budget.plan("1GB", 2, "native", [])
    assert Budget.plan("10790MB", 2, "native", []).threads >= 1
    with pytest.raises(InputError, match=r"1,000,000 bytes is too little; .* give it at least 10790MB"):
        Budget.plan("1MB", 2, "native", [])
    assert Budget.plan(None, 2, "native", []).threads == 1  # no limit was asked for


@pytest.mark.parametrize(
    ("text", "size"),
    [("256MB", 256_000_000), ("1.5GiB", 3 << 29), ("5gb", 5 * 10**9), ("5G", 5 * 10**9), ("12345", 12345), (7, 7),
     (" 2 kB ", 2000), ("3 KiB", 3072), ("9B", 9)],
)  # fmt: skip
def test_sizes(text: int | str, size: int) -> None:
    assert parse_size(text, "max_memory") == size


@pytest.mark.parametrize("text", ["", "MB", "-5GB", "1e9", "5 GB 3", "0", "nan", "0.1", True])
def test_what_is_no_size(text: Any) -> None:
    with pytest.raises(InputError, match="out_shard_size"):
        parse_size(text, "out_shard_size")


def test_pieces_of_an_arena_are_aligned_apart_and_reused() -> None:
    arena = Arena(5 * memory.PAGE)
    one, address = arena.take(memory.PAGE + 1)
    other, next_address = arena.take(10)
    assert address % memory.PAGE == next_address % memory.PAGE == 0
    one[:] = b"1" * len(one)
    other[:] = b"2" * len(other)
    assert bytes(one) == b"1" * (memory.PAGE + 1)
    with pytest.raises(MemoryError):
        arena.take(3 * memory.PAGE)
    arena.reset()
    again, same_address = arena.take(10)
    assert same_address == address
    assert bytes(again) == b"1" * 10
