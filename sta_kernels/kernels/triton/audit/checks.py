"""Rules for machine code; each returns what breaks it, in words that name the kernel, the chip and the instruction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from sta_kernels.kernels.triton.audit.compile import Report
from sta_kernels.kernels.triton.audit.flow import main_loop
from sta_kernels.kernels.triton.audit.sass import Frame

DIVISION = 5
"""Fused multiply-adds that ptxas makes of one correctly rounded division, beside the check of its operands (FCHK)."""

WRITTEN = "tl.fma("
"""How a fused multiply-add stands in the source."""

Rule = Callable[[Report], list[str]]


def wide_accesses(report: Report) -> list[str]:
    """Every access to an operand on the fast path is 128 bits wide, or as wide as a launch of fewer elements means."""
    loop = main_loop(report)
    faults = [f"{report}: {8 * one.width}-bit access: {one}" for one in loop.accesses if one.width < report.access]
    if not loop.accesses:
        faults.append(f"{report}: no access to an operand was found on the fast path")
    return faults


def no_spill(report: Report) -> list[str]:
    """The kernel's own code uses no local memory; what it calls may, as it saves its caller's registers."""
    listing = report.listing
    if listing is None:
        return [f"{report}: {report.stack} bytes of scratch memory per thread"] if report.stack else []
    faults = [
        f"{report}: {report.registers} registers and {report.stack} bytes of stack: {one}"
        for one in listing.kernel.instructions
        if one.name in {"LDL", "STL"}
    ]
    called = any(one.name in {"LDL", "STL"} for function in listing.functions[1:] for one in function.instructions)
    if report.stack and not called and not faults:
        faults.append(f"{report}: a stack frame of {report.stack} bytes")
    return faults


def fused_where_meant(report: Report) -> list[str]:
    """Fused multiply-adds on the fast path are those of the arithmetic, in the functions and the numbers it names."""
    loop = main_loop(report)
    allowed = dict(report.fused)
    faults, found = [], Counter[str]()
    divided, checked = Counter[Frame](), Counter[Frame]()
    for one in loop.instructions:
        line = one.frames[0] if one.frames else None
        if one.name == "FCHK" and line:
            checked[line] += 1
        if one.name in {"FFMA", "FFMA2", "FFMA32I", "DFMA"}:
            number = 2 if one.name == "FFMA2" else 1
            if line and "div_rn(" in line.text:
                divided[line] += number
                continue
            functions = [frame.function for frame in one.frames]
            home = next((name for name in functions if name in allowed), None)
            # Only where the source asks for one; the compiler may compute the same value twice to save a register.
            if home is None or line is None or WRITTEN not in line.text:
                faults.append(f"{report}: contracted arithmetic: {one}")
            else:
                found[home] += number
    for line, number in divided.items():
        if number != DIVISION * checked[line]:
            least = f"{checked[line]} divisions make {DIVISION * checked[line]}"
            faults.append(f"{report}: {number} fused multiply-adds where {least}: {line}")
    for name, number in allowed.items():
        if found[name] < number * loop.elements:
            per_element = found[name] / loop.elements
            faults.append(f"{report}: {per_element:g} fused multiply-adds per element in {name}, not {number}")
    return faults


def least_bytes(report: Report) -> list[str]:
    """Each operand is read once and each result written once."""
    loop = main_loop(report)
    faults = []
    for what, actual, least in (
        ("read", loop.bytes_read, report.read),
        ("written", loop.bytes_written, report.written),
    ):
        if actual != least:
            sources = Counter(str(one.frames[0]) if one.frames else "?" for one in loop.accesses)
            listed = "".join(f"\n    {number} accesses from {source}" for source, number in sources.items())
            faults.append(f"{report}: {actual:g} bytes {what} per element, expected {least}:{listed}")
    return faults


RULES: tuple[Rule, ...] = (wide_accesses, no_spill, fused_where_meant, least_bytes)


def broken(report: Report, rules: Sequence[Rule] = RULES) -> list[str]:
    """All that breaks any of the rules."""
    return [fault for rule in rules for fault in rule(report)]
