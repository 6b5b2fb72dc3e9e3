"""The table of what was audited: kernel × architecture × dtype × tasks."""

from __future__ import annotations

from collections.abc import Iterable

from sta_kernels.kernels.triton.audit.compile import Report
from sta_kernels.kernels.triton.audit.flow import main_loop
from sta_kernels.kernels.triton.audit.model import LABEL, by_pipe, predict
from sta_kernels.kernels.triton.audit.targets import CHIPS, Pipe

_COLUMNS = ("kernel", "arch", "dtype", "N", "regs", "stack", "B/el", "least", "ins/el", "alu", "fma", "imad", "lsu")
_LAST = f"chip: issue slots of budget, warps, KiB in flight of needed, share of bandwidth ({LABEL})"

LEGEND = f"""\
dtype        of the models, + that of importances where it is another; N: number of tasks
regs, stack  registers and bytes of local memory per thread, those of called functions included
B/el, least  bytes that the main loop moves per element, and the fewest that could be
ins/el       machine instructions per element of the main loop; alu, fma, imad, lsu: of these, by the pipe they take
a chip       1. issue slots per element on the busiest pipe / as many as the memory's bandwidth leaves time for
({LABEL[:5]})      2. warps that a multiprocessor holds, of 64
             3. KiB of loads in flight per multiprocessor / as many as hide the memory's latency
             4. share of the memory's bandwidth: {LABEL}
docs/gpu-audit.md has the rules, the model, and why some shares are low."""
"""What the columns are."""


def rows(reports: Iterable[Report]) -> list[tuple[str, ...]]:
    """Cells of each report, in the order of the columns."""
    return [row(report) for report in reports]


def row(report: Report) -> tuple[str, ...]:
    """Cells of one report."""
    case = report.case
    variant = "".join(f" {name}" if value is True else f" {value}" for name, value in case.variant)
    least = report.read + report.written
    cells = [case.op + variant, report.arch, case.dtype, str(case.n), str(report.registers), str(report.stack)]
    if report.listing is None:
        return (*cells, "", str(least), "", "", "", "", "", "")
    loop = main_loop(report)
    pipes = by_pipe(loop.instructions)
    cells += [f"{loop.bytes_read + loop.bytes_written:g}", str(least), f"{len(loop.instructions) / loop.elements:.0f}"]
    cells += [f"{pipes.get(pipe, 0) / loop.elements:.0f}" for pipe in (Pipe.ALU, Pipe.FMA, Pipe.IMAD, Pipe.LSU)]
    shown = []
    for chip in CHIPS:
        if chip.arch == report.arch:
            told = predict(report, chip)
            shown.append(
                f"{chip.name}: {told.slots:.0f}/{told.budget:.0f}, {told.programs * report.warps},"
                f" {told.in_flight / 1024:.0f}/{told.needed / 1024:.0f}, {told.share:.2f}"
            )
    return (*cells, "; ".join(shown))


def table(reports: Iterable[Report]) -> str:
    """The table as text, with aligned columns."""
    return aligned(rows(reports))


def aligned(rows: Iterable[tuple[str, ...]]) -> str:
    """The table of these rows."""
    cells = [(*_COLUMNS, _LAST), *rows]
    widths = [max(len(one[column]) for one in cells) for column in range(len(_COLUMNS))]
    lines = []
    for one in cells:
        left = (one[column].ljust(widths[column]) for column in (0, 1, 2))
        right = (one[column].rjust(widths[column]) for column in range(3, len(_COLUMNS)))
        lines.append(" ".join((*left, *right, one[-1])).rstrip())
    return "\n".join(lines)
