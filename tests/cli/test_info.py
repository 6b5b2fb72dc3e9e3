"""What `info` says of backends, libraries, and a missing native core."""

from __future__ import annotations

import json
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from sta_kernels import cli, kernels, methods
from sta_kernels._version import __version__
from sta_kernels.cli import info
from sta_kernels.engine import devices


@pytest.fixture(autouse=True)
def automatic(monkeypatch: pytest.MonkeyPatch) -> None:
    """No backend forced from outside."""
    monkeypatch.delenv(kernels.ENVIRONMENT_VARIABLE, raising=False)


def test_json_and_text_tell_the_same(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["version"] == __version__
    assert facts["libraries"]["numpy"] == metadata.version("numpy")
    assert facts["methods"] == list(methods.names())
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    for word in (facts["backend"], facts["reason"], str(facts["threads"]), facts["libraries"]["numpy"], "sta_forget"):
        assert word in text


def test_without_a_native_core_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(kernels, "native_problem", lambda: "libsta_core.so was not built")
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    assert "reference (no native core: libsta_core.so was not built)" in text
    assert "Install a C++17 compiler" in text
    assert text.count("sta-kernels") == 1  # its own name, and no package of that name to install


def test_with_a_native_core_it_names_build_and_instruction_sets():
    if kernels.native_problem() is not None:
        pytest.skip("no native core in this installation")
    facts = info.collect()
    assert facts["backend"] == "native"
    assert facts["native"]["instruction_sets"][0] == "baseline"
    text = info.render(facts)
    assert facts["native"]["build"] in text
    assert f"{facts['native']['instruction_sets'][-1]} (used)" in text


def test_a_library_that_is_missing_is_said_to_be(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(info, "_LIBRARIES", ("numpy", "no-such-library-of-anybody"))
    facts = info.collect()
    assert facts["libraries"]["no-such-library-of-anybody"] is None
    assert info.render(facts).endswith("no-such-library-of-anybody  not installed")


def test_a_forced_backend_is_named_as_the_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(kernels.ENVIRONMENT_VARIABLE, "reference")
    facts = info.collect()
    assert (facts["backend"], facts["reason"]) == ("reference", "STA_KERNELS_BACKEND=reference")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("abacus", "unknown backend 'abacus' (STA_KERNELS_BACKEND=abacus); known: native, triton, reference"),
        ("native", "STA_KERNELS_BACKEND=native asks for the native backend, which cannot serve: it was not built"),
        (
            "triton",
            "STA_KERNELS_BACKEND=triton asks for the triton backend, which cannot serve tensors in main memory: move "
            "them to a GPU, set TRITON_INTERPRET=1 (an interpreter, slow), or unset the variable",
        ),
    ],
)
def test_a_forced_backend_that_cannot_serve_is_part_of_the_report(
    name: str, problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv(kernels.ENVIRONMENT_VARIABLE, name)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(kernels, "native_problem", lambda: "it was not built")
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    assert f"none: {problem}\n" in text
    assert "methods" in text
    facts = info.collect()
    assert (facts["backend"], facts["problem"]) == (None, problem)


def test_gpus_are_looked_for_only_where_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert "gpus" not in info.collect()["triton"]
    assert cli.main(["info"]) == 0
    assert "not looked for (--gpu does)" in capsys.readouterr().out
    monkeypatch.setattr(devices, "gpu_problem", lambda: "PyTorch 1.0 finds no GPU, or no driver, on this machine")
    assert cli.main(["info", "--gpu"]) == 0
    assert "gpus              none: PyTorch 1.0 finds no GPU" in capsys.readouterr().out


def test_gpus_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    known = SimpleNamespace(name="NVIDIA H100", major=9, minor=0, total_memory=80 * 10**9)
    monkeypatch.setattr(devices, "gpu_problem", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: known)
    assert cli.main(["info", "--gpu"]) == 0
    text = capsys.readouterr().out
    assert "cuda:0: NVIDIA H100, compute capability 9.0, 80 GB\n" in text
    assert "cuda:1: NVIDIA H100" in text
    assert cli.main(["info", "--gpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["triton"]["gpus"][1]["device"] == "cuda:1"


def test_without_triton_it_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(info, "find_spec", lambda name: None)
    assert "triton kernels    none: Triton or torch is not installed" in info.render(info.collect(gpu=True))
