"""Tests of the audit: each fault, planted in a kernel or its compilation, is caught by the rule meant for it."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("triton")

from sta_kernels.kernels.buffers import DType
from sta_kernels.kernels.triton import sta_merge
from sta_kernels.kernels.triton.audit import families
from sta_kernels.kernels.triton.audit.checks import RULES, Rule, fused_where_meant, least_bytes, no_spill, wide_accesses
from sta_kernels.kernels.triton.audit.compile import Report, inspect
from sta_kernels.kernels.triton.audit.families import FAMILIES, Case

ARCH = "sm_90"
CASE = Case("sta_merge", DType.F32, DType.F32, 3)
FORMULA = Case("evaluate", DType.F32, DType.F32, 3, (("formula", "sparse_sum"), ("form", (1, 1, 1))))
WEIGHTED = Case("sta_merge", DType.F32, DType.F32, 3, (("weighted", True),))


@pytest.fixture
def altered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], ModuleType]:
    """Puts an altered copy of the merge kernel's module in its place."""

    def alter(old: str, new: str) -> ModuleType:
        source = Path(sta_merge.__file__).read_text(encoding="utf-8")
        assert source.count(old) == 1, f"{old!r}: the kernel has changed, plant the fault anew"
        path = tmp_path / "altered_merge.py"
        path.write_text(source.replace(old, new), encoding="utf-8")
        spec = importlib.util.spec_from_file_location("altered_merge", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(importlib.import_module("sys").modules, "altered_merge", module)
        spec.loader.exec_module(module)
        monkeypatch.setattr(families, "sta_merge", module)
        return module

    return alter


def only(report: Report, rule: Rule) -> str:
    """What the rule says; no other rule has a word."""
    faults = {one: one(report) for one in RULES}
    assert faults.pop(rule), "the planted fault was not caught"
    assert not any(faults.values()), faults
    return "\n".join(rule(report))


def test_nothing_is_found_where_nothing_was_planted() -> None:
    for case in (CASE, WEIGHTED):
        report = inspect(case, FAMILIES["sta_merge"](case), ARCH)
        assert [fault for rule in RULES for fault in rule(report)] == []


def test_nothing_is_found_in_a_formula() -> None:
    report = inspect(FORMULA, FAMILIES["evaluate"](FORMULA), ARCH)
    assert [fault for rule in RULES for fault in rule(report)] == []


def test_a_contracted_formula() -> None:
    report = inspect(FORMULA, FAMILIES["evaluate"](FORMULA), ARCH, enable_fp_fusion=True)
    told = only(report, fused_where_meant)
    assert "evaluate f32 N=3 formula=sparse_sum form=(1, 1, 1) on sm_90: contracted arithmetic: FFMA" in told
    assert "sparse_sum.py" in told


def test_a_formula_that_spills() -> None:
    told = "\n".join(no_spill(inspect(FORMULA, FAMILIES["evaluate"](FORMULA), ARCH, maxnreg=32)))
    assert "32 registers" in told
    assert "STL" in told


def test_a_formula_that_reads_too_much_at_narrow_accesses() -> None:
    binding = FAMILIES["evaluate"](FORMULA)
    constants = {**binding.launched.constants, "ALIGNED": False}
    narrow = dataclasses.replace(binding, launched=dataclasses.replace(binding.launched, constants=constants))
    assert "32-bit access" in only(inspect(FORMULA, narrow, ARCH), wide_accesses)
    twice = dataclasses.replace(binding, read=binding.read - 4)
    assert "16 bytes read per element, expected 12" in only(inspect(FORMULA, twice, ARCH), least_bytes)


def test_a_contracted_sum(altered) -> None:
    altered("            enable_fp_fusion=False,\n", "")
    report = inspect(WEIGHTED, FAMILIES["sta_merge"](WEIGHTED), ARCH)
    told = only(report, fused_where_meant)
    assert "sta_merge f32 N=3 weighted=True on sm_90: contracted arithmetic: FFMA" in told
    assert "altered_merge.py" in told
    assert "total + term" in told or "lambda_ * total" in told


def test_a_multiply_add_written_out(altered) -> None:
    altered(
        "merged = tl.where(routed, base + lambda_ * total, base)", "merged = tl.fma(total, total * 0 + lambda_, base)"
    )
    report = inspect(WEIGHTED, FAMILIES["sta_merge"](WEIGHTED), ARCH)
    assert "tl.fma(total" in only(report, fused_where_meant)


@pytest.mark.parametrize(
    ("dividend", "fault"),
    [
        ("base + total", None),
        ("tl.fma(total, total * 0 + lambda_, base)", "24 fused multiply-adds where 4 divisions make 20"),
    ],
)
def test_a_multiply_add_within_a_division(altered, dividend: str, fault: str | None) -> None:
    altered(
        "merged = tl.where(routed, base + lambda_ * total, base)",
        f"merged = tl.div_rn({dividend}, tl.full([BLOCK], lambda_, tl.float32))",
    )
    report = inspect(WEIGHTED, FAMILIES["sta_merge"](WEIGHTED), ARCH)
    if fault is None:
        assert fused_where_meant(report) == []
    else:
        assert fault in only(report, fused_where_meant)


def test_a_division_that_lacks_some() -> None:
    """Fewer fused multiply-adds than the division is made of are a fault, wherever those stand that are there."""
    binding = FAMILIES["sta_merge"](CASE)
    binding = dataclasses.replace(binding, fused={"normalise": 4 * CASE.n})
    assert "9 fused multiply-adds per element in normalise, not 12" in only(
        inspect(CASE, binding, ARCH), fused_where_meant
    )


def test_scalar_loads() -> None:
    binding = FAMILIES["sta_merge"](CASE)
    constants = {**binding.launched.constants, "ALIGNED": False}
    binding = dataclasses.replace(binding, launched=dataclasses.replace(binding.launched, constants=constants))
    told = only(inspect(CASE, binding, ARCH), wide_accesses)
    assert "sta_merge f32 N=3 on sm_90: 32-bit access: LDG.E" in told
    assert "importance = widen(tl.load(importance_ptr + here))" in told


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_a_spill(arch: str) -> None:
    told = only(inspect(CASE, FAMILIES["sta_merge"](CASE), arch, maxnreg=48), no_spill)
    assert f"sta_merge f32 N=3 on {arch}: 48 registers" in told
    assert "LDL" in told
    assert "STL" in told


def test_an_operand_read_twice(altered) -> None:
    altered("term = theta - base", "term = theta - widen(tl.load(base_ptr + here, volatile=True))")
    report = inspect(CASE, FAMILIES["sta_merge"](CASE), ARCH)
    told = only(report, least_bytes)
    assert "40 bytes read per element, expected 28" in told
    assert "volatile=True" in told


def test_an_operand_of_another_measure() -> None:
    """A kernel that reads importances where the measure needs none."""
    binding = FAMILIES["sta_merge"](CASE)
    binding = dataclasses.replace(binding, read=4 * (CASE.n + 1))
    assert "28 bytes read per element, expected 16" in only(inspect(CASE, binding, ARCH), least_bytes)


def test_a_result_written_twice(altered) -> None:
    altered(
        "            tl.store(out_ptr + here, narrow(merged, OUT), mask=ordinary)\n",
        "            tl.store(out_ptr + here, narrow(base, OUT), mask=ordinary)\n"
        "            tl.debug_barrier()\n"
        "            tl.store(out_ptr + here, narrow(merged, OUT), mask=ordinary)\n",
    )
    report = inspect(CASE, FAMILIES["sta_merge"](CASE), ARCH)
    assert "8 bytes written per element, expected 4" in only(report, least_bytes)
