"""The device path of the ops on tensors in main memory: tests/gpu's cases, and that nothing reads back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "gpu"))

from device_operands import LAYOUTS, Operands, check, count_fast_blocks
from large_cases import *  # noqa: F403
from op_cases import *  # noqa: F403

from sta_kernels import ops
from sta_kernels.kernels import ENVIRONMENT_VARIABLE
from sta_kernels.kernels.triton import immediate
from sta_kernels.ops import _launch
from sta_kernels.ops._flat import Flat

FAST = {  # blocks that these tests take on the fast path, at the least
    "test_merges_of_whole_blocks": 1,
    "test_merges_of_whole_blocks_in_place": 1,
    "test_fast_and_plain_blocks_by_turns": 6,
}
READS = ("cpu", "item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Main memory, as the interpreter's device."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "triton")
    return torch.device("cpu")


@pytest.fixture(autouse=True)
def _on_the_fast_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Merges of whole blocks take their fast path; otherwise they would compare the plain path with itself."""
    seen = count_fast_blocks(monkeypatch)
    yield
    if (name := request.node.originalname) in FAST:
        assert len(seen) >= FAST[name]


@pytest.fixture
def unread(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The places of the package at which a tensor's values are read by the host."""
    found: list[str] = []

    def watched(name: str) -> Any:
        original = getattr(Tensor, name)

        def read(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            caller = sys._getframe(1)
            module = caller.f_globals["__name__"]
            # ``tables`` fills staging memory, which is the host's own; the interpreter runs kernels on the host.
            if module.startswith("sta_kernels") and module != "sta_kernels.kernels.triton.tables":
                found.append(f"{module}:{caller.f_lineno} .{name}")
            return original(self, *args, **kwargs)

        return read

    for name in READS:
        monkeypatch.setattr(Tensor, name, watched(name))
    return found


def test_the_device_path_is_what_is_tested(device: torch.device, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("launched")

    monkeypatch.setattr(_launch, "launch_sta_merge", refuse)
    with pytest.raises(RuntimeError, match="launched"):
        ops.sta_merge(*Operands(device, (3,), 2))


def test_no_op_reads_from_the_device(device: torch.device, unread: list[str]):
    o = Operands(device, (5, 37), 3)
    kept = torch.zeros(4, dtype=torch.int64)
    table = ops.normaliser(o.importances)
    ops.sta_merge(*o, normaliser=table, kept=kept, weight=[1.0, 0.5, 2.0], lambda_=0.5)
    ops.sta_merge(*o)
    ops.normaliser(o.importances, "mean")
    ops.minmax(o.importances)
    ops.order_statistic(o.base, 7)
    ops.sta_forget(o.base, o.base, o.finetuned[0], o.importances[0], kept=kept[:1])
    ops.linear(None, o.finetuned)
    ops.task_arithmetic(o.base, o.finetuned)
    ops.taylor_accumulate_(o.base, o.finetuned[0])
    ops.taylor_finish(o.importances[0], o.base)
    assert unread == []


def test_a_read_would_be_seen(device: torch.device, unread: list[str], monkeypatch: pytest.MonkeyPatch):
    code = compile("def of(ranges): return ranges * float(ranges[0, 0])", "planted", "exec")
    names = {"__name__": "sta_kernels.planted"}
    exec(code, names)
    monkeypatch.setattr(_launch, "_ranges_to_normaliser", names["of"])
    ops.sta_merge(*Operands(device, (5, 37), 2))
    assert unread == ["sta_kernels.planted:1 .__float__"]


def test_a_fault_of_a_layout_would_be_seen(device: torch.device, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Flat, "_fits", lambda self, tensor: True)
    with pytest.raises(AssertionError):
        check(ops.sta_merge, *Operands(device, (5, 37), 2).laid_out("contiguous", "transposed", "gaps"))


def test_flushed_subnormals_of_the_callers_thread_change_nothing(device: torch.device):
    o = Operands(device, (5, 37), 3)
    for each in (o.base, *o.finetuned):
        each *= 1e-39
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush")
    try:
        merged = ops.sta_merge(*o)
        stats = ops.taylor_finish(*o.finetuned[:2])[1]
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(merged, ops.sta_merge(*o))
    assert torch.equal(stats, ops.taylor_finish(*o.finetuned[:2])[1])


@pytest.mark.parametrize(
    "words",
    [
        np.zeros(0),
        np.arange(5),
        np.arange(5000) * (1 << 32) + 3,
        np.concatenate(([7, 9, 2, 5], np.arange(48) << 32, (np.arange(60) << 32) + 1, [4, 4, -1])),
        np.array([2**63 - 1, -(2**63)] * 50),
        np.concatenate((np.arange(100), np.arange(98, 0, -1))),
        np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 100),
    ],
    ids=len,
)
def test_words_written_by_kernels(words: np.ndarray):
    there = torch.full((len(words) + 2,), -7, dtype=torch.int64)
    immediate.write(there[1:-1], words.astype(np.int64))
    assert there.tolist() == [-7, *words.astype(np.int64).tolist(), -7]


def test_the_least_copied_layout_wins():
    tensors = [torch.zeros(6, 4) for _ in range(3)]
    tensors[1] = LAYOUTS["transposed"](tensors[1])
    tensors[2] = LAYOUTS["transposed"](tensors[2])
    memory = Flat(tensors)
    assert [memory.read(each).address == each.data_ptr() for each in tensors] == [False, True, True]
    memory = Flat(tensors, in_order=True)
    assert [memory.read(each).address == each.data_ptr() for each in tensors] == [True, False, False]
