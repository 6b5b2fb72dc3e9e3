"""What `info` says of backends, libraries, and a missing native core."""

from __future__ import annotations

import json
from importlib import metadata

import pytest

from sta_kernels import cli, kernels
from sta_kernels._version import __version__
from sta_kernels.cli import info


@pytest.fixture(autouse=True)
def automatic(monkeypatch: pytest.MonkeyPatch) -> None:
    """No backend forced from outside."""
    monkeypatch.delenv(kernels.ENVIRONMENT_VARIABLE, raising=False)


def test_json_and_text_tell_the_same(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["version"] == __version__
    assert facts["libraries"]["numpy"] == metadata.version("numpy")
    assert facts["methods"] == ["linear", "sta", "sta_forget", "task_arithmetic"]
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


def test_an_unknown_backend_is_the_callers_mistake(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv(kernels.ENVIRONMENT_VARIABLE, "abacus")
    assert cli.main(["info"]) == 2
    assert "unknown backend 'abacus'" in capsys.readouterr().err


def test_a_backend_that_cannot_serve_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv(kernels.ENVIRONMENT_VARIABLE, "native")
    monkeypatch.setattr(kernels, "native_problem", lambda: "libsta_core.so was not built")
    assert cli.main(["info"]) == 1
    assert "cannot serve: libsta_core.so was not built" in capsys.readouterr().err
