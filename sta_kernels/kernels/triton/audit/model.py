"""A model of a kernel's time, from its machine code and a chip's public figures. A model: nothing here was measured.

Three times are set against each other, per program and multiprocessor: moving its bytes at the memory's bandwidth;
issuing its instructions on the pipes that execute them; waiting, with as many warps resident as the registers allow,
for loads that take as long as the memory's latency. The last comes from running one warp's instructions in order on a
scoreboard. They are joined as the root of the sum of their squares, a maximum that is smooth where two are equal. That
form is calibrated to one published figure: a Hopper GPU is said to need about 32 KiB in flight per multiprocessor (GTC
2025, S72683), and with it as much brings an H200 to 96 % of its bandwidth. Idle latency × bandwidth alone would ask for
10 KiB. The bytes *needed* are those of the calibrated form.

Left out are the launch itself, memory refresh, and turning from reads to writes, which a copy of the same bytes pays as
well: read a share as one of what a copy reaches. Left out too are conflicts of threads at an atomic in shared memory
(the histogram's time depends on its data; the model takes each as one access), the queueing of loads in a busy memory,
and all that the main loop's fast path does not do: the plain path of a merge, the tail of a tensor, the way out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sta_kernels.kernels.triton.audit.compile import Report
from sta_kernels.kernels.triton.audit.families import LARGE
from sta_kernels.kernels.triton.audit.flow import main_loop, registers
from sta_kernels.kernels.triton.audit.sass import Instruction
from sta_kernels.kernels.triton.audit.targets import (
    ISSUE,
    MOST_PROGRAMS,
    MOST_WARPS,
    PARTITIONS,
    REGISTER_UNIT,
    REGISTERS,
    SHARED_KEPT,
    SHARED_UNIT,
    WARP,
    Chip,
    Pipe,
)

SATURATED = 0.96
"""Share of the bandwidth at which the bytes under way are called enough; calibrated to 32 KiB on an H200."""

LABEL = "model, not measured"
"""Stands wherever a prediction is shown."""

# Cycles from an instruction to the first that can use its result: arithmetic 4 (Abdelkhalik et al., Demystifying the
# Nvidia Ampere Architecture, arXiv 2208.11174); shared memory, shuffles, special functions and barriers about 30
# (same); a table that the first turn has brought into L1 about 40 (arXiv 2402.13499).
_ARITHMETIC = 4
_SLOW = 30
_L1 = 40
_SLOW_NAMES = {"LDS", "SHFL", "MUFU", "S2R", "S2UR", "LDC", "ULDC", "BAR", "REDUX", "VOTE"}


def resident_programs(chip: Chip, registers_per_thread: int, warps: int, shared: int) -> int:
    """Programs of a kernel that one multiprocessor holds at a time."""
    per_warp = -(-registers_per_thread * WARP // REGISTER_UNIT) * REGISTER_UNIT
    by_registers = REGISTERS // PARTITIONS // per_warp * PARTITIONS // warps
    held = -(-(shared + SHARED_KEPT) // SHARED_UNIT) * SHARED_UNIT
    return min(by_registers, MOST_WARPS // warps, MOST_PROGRAMS, chip.shared // held)


def issue_budget(chip: Chip, bytes_per_element: float) -> float:
    """Thread instructions per element that can issue while the memory moves the element's bytes."""
    return ISSUE * chip.multiprocessors * chip.clock * bytes_per_element / chip.bandwidth


def by_pipe(instructions: Iterable[Instruction]) -> dict[Pipe, int]:
    """Instructions of each pipe."""
    return dict(Counter(one.pipe for one in instructions))


def issue_slots(chip: Chip, pipes: dict[Pipe, int]) -> float:
    """Issue slots that instructions take on the busiest pipe: on one of half rate, two each."""
    shared_units = (sum(pipes.get(pipe, 0) for pipe in group) * ISSUE / rate for group, rate in chip.rates)
    return max(sum(pipes.values()), *shared_units)


def warp_cycles(instructions: Sequence[Instruction], chip: Chip, latency: dict[int, int], turns: int = 1) -> float:
    """Cycles that one warp alone takes for the last of ``turns`` runs through instructions, in order.

    Args:
        instructions: of a loop's body, or of straight code.
        chip: where.
        latency: of loads, by address.
        turns: runs one after the other; the difference between the last two is a loop's steady state.
    """
    busy = {pipe: max([1.0, *(ISSUE / rate for group, rate in chip.rates if pipe in group)]) for pipe in Pipe}
    ready: dict[str, float] = {}
    free: dict[Pipe, float] = {}
    clock = before = 0.0
    for _ in range(turns):
        before = clock
        for one in instructions:
            reads, writes = registers(one)
            start = max([clock + 1, free.get(one.pipe, 0.0), *(ready.get(name, 0.0) for name in reads)])
            free[one.pipe] = start + busy[one.pipe]
            wait = latency.get(one.address, _SLOW if one.name in _SLOW_NAMES else _ARITHMETIC)
            for name in writes:
                ready[name] = start + wait
            clock = start + (_SLOW if one.name == "BAR" else 0)
        # Straight code ends when its last result is there; a turn of a loop when the next begins.
        if turns == 1:
            clock = max([clock, *ready.values()])
    return clock - before


@dataclass(frozen=True)
class Prediction:
    """What the model says of a kernel on a chip. A model, not measured.

    Attributes:
        chip: where.
        programs: resident per multiprocessor.
        occupancy: resident warps over the most that fit.
        budget: instructions per element that the bandwidth leaves time to issue.
        slots: issue slots per element that the busiest pipe takes.
        in_flight: bytes of loads under way per multiprocessor, on average, were the latency all there is.
        needed: those with which waiting alone would leave :data:`SATURATED` of the bandwidth, of a bandwidth shared
            with stores.
        table_cycles: from the start of a program to its first turn.
        waves: programs of the launch over those that the chip holds.
        share: of the memory's bandwidth.
    """

    chip: Chip
    programs: int
    occupancy: float
    budget: float
    slots: float
    in_flight: float
    needed: float
    table_cycles: float
    waves: float
    share: float


def predict(report: Report, chip: Chip) -> Prediction:
    """Model the launch over :data:`LARGE` elements of a kernel compiled for the chip's architecture."""
    if report.listing is None or report.arch != chip.arch:
        raise ValueError(f"{report}: {chip.name} runs {chip.arch}")
    loop = main_loop(report)
    programs = resident_programs(chip, report.registers, report.warps, report.listing.shared)
    if not programs:
        raise ValueError(f"{report}: not one program fits a multiprocessor of {chip.name}")
    moved = loop.bytes_read + loop.bytes_written
    slots = issue_slots(chip, by_pipe(loop.instructions)) / loop.elements

    latency = {one.address: chip.dram_latency for one in loop.accesses} | {one.address: _L1 for one in loop.tables}
    turn = warp_cycles(loop.instructions, chip, latency, turns=4)
    tables = {one.address: chip.l2_latency for one in loop.prologue if one.is_global}
    table_cycles = warp_cycles(loop.prologue, chip, tables)

    # Per program, in cycles of one multiprocessor.
    bytes_per_cycle = chip.bandwidth / chip.multiprocessors / chip.clock
    chunk = LARGE / report.programs
    alone = table_cycles + turn * chunk / (loop.elements * report.warps * WARP)
    steady = math.hypot(
        chunk * moved / bytes_per_cycle,
        chunk * slots / ISSUE,
        alone / programs,
    )
    waves = report.programs / (chip.multiprocessors * programs)
    tail = waves - math.floor(waves)
    cycles = table_cycles + math.floor(waves) * programs * steady
    if tail:
        # Programs of a wave that is not full still take as long as one takes alone.
        cycles += max(tail * programs * steady, alone)
    ideal = LARGE * moved / chip.bandwidth * chip.clock
    warps = programs * report.warps
    return Prediction(
        chip,
        programs,
        warps / MOST_WARPS,
        issue_budget(chip, moved),
        slots,
        warps * WARP * loop.elements * loop.bytes_read * chip.dram_latency / turn,
        chip.dram_latency * bytes_per_cycle * loop.bytes_read / moved * SATURATED / math.sqrt(1 - SATURATED**2),
        table_cycles,
        waves,
        ideal / cycles,
    )
