"""Every kernel compiles for every architecture, on a machine that has none of them."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

pytest.importorskip("triton")

from sta_kernels.kernels.triton import evaluate
from sta_kernels.kernels.triton.audit.cases import COVERING, FORMULAS, covering, every_case
from sta_kernels.kernels.triton.audit.compile import Report
from sta_kernels.kernels.triton.audit.families import FAMILIES, Case
from sta_kernels.kernels.triton.audit.targets import TARGETS


@pytest.mark.parametrize(("case", "arch"), covering(TARGETS), ids=str)
def test_a_case_compiles(audited, case: Case, arch: str) -> None:
    report: Report = audited[case, arch].result()
    assert (report.case, report.arch) == (case, arch)
    assert report.registers > 0
    # Threads of AMD's compute units have up to 512 registers, NVIDIA's 255.
    assert report.registers <= (512 if arch == "gfx942" else 255)


def test_the_covering_set_has_every_kernel_and_dtype() -> None:
    everything = every_case()
    assert {case.op for case in COVERING} >= set(FAMILIES) - {"leaf_sums"}  # the same kernel with ranges is there
    assert {case.weights for case in COVERING} == {case.weights for case in everything}
    merges = {key for case in COVERING if case.op == "sta_merge" for key in dict(case.variant)}
    assert merges == {"measure", "weighted", "counted"}
    assert len(set(everything)) == len(everything)


def test_every_formula_is_audited_in_every_form() -> None:
    """And in the covering set those that methods merge by, sums of sparse vectors behind every gate."""
    everything = {(dict(case.variant)["formula"], dict(case.variant).get("form")) for case in formulas(every_case())}
    assert {name for name, _ in everything} == set(evaluate.FORMULAS)
    assert {form for name, form in everything if name == "sparse_sum"} >= {(gate, 1, 1) for gate in range(4)}
    covered = formulas((*COVERING, *FORMULAS))
    assert {dict(case.variant)["formula"] for case in covered} >= {
        name for name, one in evaluate.FORMULAS.items() if one.is_delta
    }
    gates = {(form[0], bool(form[1])) for case in covered if len(form := dict(case.variant).get("form", ())) == 3}
    assert gates == {(gate, elects) for gate in range(4) for elects in (False, True)}


def formulas(cases: Iterable[Case]) -> list[Case]:
    return [case for case in cases if case.op == "evaluate"]


@pytest.mark.parametrize("case", [*COVERING, *FORMULAS], ids=str)
def test_launches_ask_for_uncontracted_arithmetic(case: Case) -> None:
    launched = FAMILIES[case.op](case).launched
    assert launched.options["enable_fp_fusion"] is False
    assert launched.options["num_warps"] in (1, 2, 4, 8)
    assert launched.programs >= 4 * 132, "too few programs to occupy a device evenly"
