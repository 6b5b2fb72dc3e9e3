"""Which device a merge runs on, the reasons that are given, and the refusals."""

from __future__ import annotations

import sys

import pytest
import torch

from sta_kernels import kernels
from sta_kernels.engine import devices
from sta_kernels.engine.devices import Placement, place
from sta_kernels.engine.memory import PAGE, SIZES
from sta_kernels.errors import InputError


@pytest.fixture(autouse=True)
def nothing_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STA_KERNELS_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch says on a machine with two."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (10 + index, 20))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Some GPU {index}")


def test_files_are_merged_on_the_cpu_unless_asked_otherwise() -> None:
    automatic, asked = place("auto"), place("cpu")
    assert (automatic.device, automatic.backend, automatic.free) == ("cpu", kernels.choose().name, None)
    assert automatic.reason.startswith("auto: files are read into main memory, and the CPU merges them there; ")
    assert asked.reason.startswith("asked for by the caller; ")
    assert automatic.kind == automatic.backend


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "mps", "", "cpu:0", "cuda:-1"])
def test_names_that_are_none(device: str) -> None:
    with pytest.raises(InputError, match=r"unknown device '.*'; known: auto, cpu, cuda, cuda:N, interpret"):
        place(device)


def test_devices_that_are_not_named() -> None:
    assert place(torch.device("cpu")) == place("cpu")
    assert place(None) == place("auto")
    with pytest.raises(InputError, match="unknown device 'mps'"):
        place(torch.device("mps"))
    with pytest.raises(InputError, match=r"expected a name, a torch\.device or None, got int"):
        place(0)  # type: ignore[arg-type]


def test_an_unknown_backend_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STA_KERNELS_BACKEND", "cuda")
    for device in ("auto", "cpu", "interpret", "cuda"):
        with pytest.raises(InputError, match="unknown backend 'cuda'"):
            place(device)


def test_auto_names_the_variable_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STA_KERNELS_BACKEND", "triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device: auto is cuda where STA_KERNELS_BACKEND=triton, and cannot serve: Py"):
        place("auto")


@pytest.mark.usefixtures("two_gpus")
def test_gpus_by_number() -> None:
    first, second = place("cuda"), place("cuda:1")
    assert first == Placement("cuda:0", "triton", "asked for by the caller; Some GPU 0", 10)
    assert (second.device, second.free, second.kind) == ("cuda:1", 11, "cuda")
    with pytest.raises(InputError, match="device: cuda:2 is not there; this machine has cuda:0, cuda:1"):
        place("cuda:2")


@pytest.mark.usefixtures("two_gpus")
def test_the_environment_decides_where_the_caller_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STA_KERNELS_BACKEND", "triton")
    assert place("auto").device == "cuda:0"
    assert place("auto").reason == "auto: STA_KERNELS_BACKEND=triton; Some GPU 0"
    with pytest.raises(InputError, match="device: cpu contradicts STA_KERNELS_BACKEND=triton"):
        place("cpu")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert place("auto").device == place("interpret").device == "interpret"
    with pytest.raises(InputError, match="device: cpu contradicts STA_KERNELS_BACKEND=triton"):
        place("cpu")
    with pytest.raises(InputError, match="device: cuda cannot serve: TRITON_INTERPRET=1"):
        place("cuda")
    monkeypatch.setenv("STA_KERNELS_BACKEND", "reference")
    assert place("auto").backend == place("cpu").backend == "reference"
    for device in ("cuda", "interpret"):
        with pytest.raises(
            InputError, match="needs Triton's kernels, but STA_KERNELS_BACKEND=reference asks for others"
        ):
            place(device)


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "99.0")
    with pytest.raises(
        InputError, match=r"device: cuda:1 cannot serve: PyTorch \S+ finds no GPU, .*; leave out --cuda \(or"
    ):
        place("cuda:1")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(InputError, match=r"cannot serve: PyTorch \S+ was built without support for GPUs"):
        place("cuda")


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(InputError, match="device: cuda cannot serve: Triton cannot be imported"):
        place("cuda")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(InputError, match="device: interpret cannot serve: Triton cannot be imported"):
        place("interpret")


def test_the_interpreter_comes_before_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", sys)  # imported for a GPU
    with pytest.raises(InputError, match="device: interpret cannot serve: Triton is loaded already"):
        place("interpret")


def test_every_kind_of_placement_has_its_sizes() -> None:
    placed = [Placement("cpu", name, "") for name in ("native", "reference")]
    placed += [Placement(device, "triton", "") for device in ("cuda:3", "interpret")]
    assert {placement.kind for placement in placed} == set(SIZES)


def test_plain_memory_without_a_twin() -> None:
    opened = devices.open_kernels(place("cpu"))
    _, address = opened.arena(16 * PAGE).take(100)
    assert address % PAGE == 0
    assert opened.workspace is None
