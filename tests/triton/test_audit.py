"""The rules hold for the machine code of what launches choose."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import pytest

pytest.importorskip("triton")

from sta_kernels.kernels.triton.audit.cases import COVERING, covering, every_case
from sta_kernels.kernels.triton.audit.checks import broken
from sta_kernels.kernels.triton.audit.compile import Pair, Report, audit, auditing, build
from sta_kernels.kernels.triton.audit.families import FAMILIES, Case
from sta_kernels.kernels.triton.audit.flow import main_loop
from sta_kernels.kernels.triton.audit.model import LABEL
from sta_kernels.kernels.triton.audit.table import table
from sta_kernels.kernels.triton.audit.targets import AUDITED


@pytest.mark.parametrize(("case", "arch"), covering(AUDITED), ids=str)
def test_the_rules_hold(audited, case: Case, arch: str) -> None:
    faults = broken(audited[case, arch].result())
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("arch", AUDITED)
def test_no_merge_takes_more_instructions_than_the_first_try(audited, arch: str) -> None:
    """94, 104 and 110 per element for six tasks: what a first try, written down before this one, compiled to."""
    tried = {"f32": 94, "bf16+f32": 104, "bf16": 110}
    for case in COVERING:
        if case.op == "sta_merge" and case.n == 6 and not case.variant:
            loop = main_loop(audited[case, arch].result())
            assert len(loop.instructions) / loop.elements < tried[case.dtype], case


def test_the_table_names_what_is_modelled(audited) -> None:
    case = Case("sta_merge", n=6)
    head, *lines = table([audited[case, arch].result() for arch in (*AUDITED, "gfx942")]).splitlines()
    assert LABEL in head
    assert len(lines) == 3
    assert "A100" in lines[0]
    assert "H100" in lines[1]
    assert "H200" in lines[1]
    assert (
        " 56    56 " in lines[0]
    )  # bytes per element, and the least: six models, the base, six importances, the result


@pytest.fixture(scope="module")
def all_audited(request: pytest.FixtureRequest) -> Iterator[dict[Pair, Future[list[str]]]]:
    """What breaks the rules in the cases that were selected: with ``-k``, a few of the thousands."""
    selected = [item for item in request.session.items if "all_audited" in getattr(item, "fixturenames", ())]
    pairs = [(item.callspec.params["case"], item.callspec.params["arch"]) for item in selected]
    with auditing(pairs, broken) as faults:
        yield faults


@pytest.mark.audit
@pytest.mark.parametrize(("case", "arch"), [(case, arch) for case in every_case() for arch in AUDITED], ids=str)
def test_the_rules_hold_for_all_that_launches_choose(all_audited, case: Case, arch: str) -> None:
    faults = all_audited[case, arch].result()
    assert not faults, "\n".join(faults)


def test_what_is_audited_is_what_is_compiled_now() -> None:
    """Two compilations share nothing through a cache: the report comes from the sources as they are."""
    case = Case("taylor_accumulate")
    assert audit(case, "sm_90") == audit(case, "sm_90")


@pytest.mark.parametrize("case", [Case("sta_merge", n=3), Case("gates")], ids=str)
def test_what_architectures_share_changes_no_byte(case: Case) -> None:
    """Triton's intermediate code of one architecture becomes the other's machine code as the sources would."""
    launched = FAMILIES[case.op](case).launched
    first, alone = build(launched, "sm_80"), build(launched, "sm_90")
    shared = build(launched, "sm_90", first.asm["ttir"])
    assert shared.asm["cubin"] == alone.asm["cubin"]
    assert shared.asm["ptx"] == alone.asm["ptx"]


def test_an_error_in_a_process_is_that_of_each_architecture() -> None:
    case = Case("taylor_accumulate", variant=(("nonsense", 1),))
    with auditing([(case, arch) for arch in AUDITED], _fail) as faults:
        for future in faults.values():
            with pytest.raises(ValueError, match="planted"):
                future.result()


def _fail(report: Report) -> list[str]:
    raise ValueError(f"planted: {report}")
