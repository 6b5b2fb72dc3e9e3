"""The audit by hand: what it says of the table, and how it ends."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

pytest.importorskip("triton")

from sta_kernels.kernels.triton.audit import __main__ as command
from sta_kernels.kernels.triton.audit.cases import COVERING, FORMULAS
from sta_kernels.kernels.triton.audit.families import Case
from sta_kernels.kernels.triton.audit.model import predict
from sta_kernels.kernels.triton.audit.targets import CHIPS, TARGETS

CASE = Case("taylor_accumulate")
DOCUMENT = Path(__file__).parents[2] / "docs" / "gpu-audit.md"


def test_progress_table_legend_and_verdict(monkeypatch, capsys) -> None:
    monkeypatch.setattr(command, "covering", lambda archs: [(CASE, arch) for arch in archs])
    assert command.main(["--arch", "sm_90", "--arch", "gfx942", "--arch", "sm_90"]) == 0
    said = capsys.readouterr()
    assert "2/2" in said.err
    head, *body = said.out.splitlines()
    assert head.startswith("kernel")
    assert [line.split()[1] for line in body[:2]] == ["sm_90", "gfx942"]
    for column in ("dtype", "regs, stack", "B/el, least", "ins/el"):
        assert any(line.startswith(column) for line in body), column
    assert body[-2].startswith("gfx942: compiled and shown")
    assert body[-1] == "all rules hold: 1 kernels, sm_90"


def test_what_is_broken_is_said_last(audited) -> None:
    report = audited[COVERING[1], "sm_90"].result()
    broken = dataclasses.replace(report, read=report.read - 4)
    lines, good = command.verdict([command.Line.of(report), command.Line.of(broken)])
    assert not good
    assert [line.partition(":")[0] for line in lines] == ["least_bytes", "rules are broken"]


@pytest.mark.parametrize("arch", ["sm_89", "sm_86", "gfx90a"])
def test_an_unknown_architecture(arch: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--arch", arch])
    assert ended.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert all(known in said for known in TARGETS)
    assert "sm_86 and sm_89 run sm_80's machine code" in said


def test_help_is_plain_text(capsys) -> None:
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert "`" not in capsys.readouterr().out


def test_the_document_lists_the_low_shares(audited) -> None:
    """Those below 0.8, with shares to 0.05: the figures are a model's."""
    text = DOCUMENT.read_text(encoding="utf-8")
    stated = re.findall(r"^\| `([^`]+)` \| (0\.\d\d) \| (0\.\d\d) \|", text, re.MULTILINE)
    chips = [chip for chip in CHIPS if chip.arch == "sm_90"]
    assert [chip.name for chip in chips] == ["H100", "H200"]
    cases = (*COVERING, *FORMULAS)
    shares = {str(case): [predict(audited[case, "sm_90"].result(), chip).share for chip in chips] for case in cases}
    assert {name for name, *_ in stated} == {name for name, each in shares.items() if min(each) < 0.8}
    for name, *told in stated:
        assert [float(share) for share in told] == pytest.approx(shares[name], abs=0.05), name
