"""The model's parts, against figures worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("triton")

from sta_kernels.kernels.triton.audit.compile import Report
from sta_kernels.kernels.triton.audit.families import LARGE, Case
from sta_kernels.kernels.triton.audit.model import (
    issue_budget,
    issue_slots,
    predict,
    resident_programs,
    warp_cycles,
)
from sta_kernels.kernels.triton.audit.sass import Instruction, Listing, parse
from sta_kernels.kernels.triton.audit.targets import CHIPS, Pipe

A100, H100, H200 = CHIPS


@pytest.mark.parametrize(
    ("chip", "registers", "warps", "shared", "programs"),
    [
        (A100, 32, 4, 0, 16),  # 64 warps fit a multiprocessor
        (A100, 64, 4, 0, 8),  # 16384 / (64 · 32) = 8 warps in each quarter
        (A100, 65, 4, 0, 7),  # 65 · 32 = 2080, in units of 256: 2304; 16384 // 2304 = 7
        (H100, 168, 4, 0, 3),  # 5376; 3 warps in each quarter
        (H100, 255, 4, 0, 2),  # 8160 → 8192; 2
        (H100, 255, 16, 0, 0),
        (A100, 32, 1, 0, 32),  # the most programs
        (A100, 32, 4, 40 << 10, 4),  # 41 KiB each of 164
        (H100, 32, 4, 40 << 10, 5),  # of 228
    ],
)
def test_occupancy(chip, registers: int, warps: int, shared: int, programs: int) -> None:
    assert resident_programs(chip, registers, warps, shared) == programs


@pytest.mark.parametrize(("bytes_moved", "budget"), [(56, 496), (40, 354), (28, 248), (72, 637), (52, 460), (36, 319)])
def test_issue_budget(bytes_moved: int, budget: int) -> None:
    """Of 132 multiprocessors × 128 × 1.755 GHz at 3.35 TB/s."""
    assert int(issue_budget(H100, bytes_moved)) in (budget - 1, budget)


@pytest.mark.parametrize(
    ("chip", "pipes", "slots"),
    [
        (H100, {Pipe.FMA: 10, Pipe.ALU: 6}, 16),  # issue
        (H100, {Pipe.FMA: 4, Pipe.ALU: 12}, 24),  # compares at half rate
        (A100, {Pipe.FMA: 10, Pipe.ALU: 6}, 20),  # so are additions on the A100,
        (A100, {Pipe.FMA: 10, Pipe.IMAD: 4, Pipe.ALU: 6}, 28),  # with which integer multiply-adds share
        (H100, {Pipe.FMA: 10, Pipe.IMAD: 8, Pipe.ALU: 6}, 24),
        (H100, {Pipe.XU: 3}, 24),
    ],
)
def test_issue_slots(chip, pipes, slots: int) -> None:
    assert issue_slots(chip, pipes) == slots


def code(*lines: str) -> tuple[Instruction, ...]:
    found = []
    for address, line in enumerate(lines):
        opcode, _, operands = line.partition(" ")
        found.append(Instruction(address, "", opcode, operands, ()))
    return tuple(found)


def test_a_warp_waits_for_what_it_uses() -> None:
    together = code("LDG.E R1, [R8.64]", "LDG.E R2, [R8.64]", "FADD R3, R1, R2")
    # The second load follows when 8 of 32 lanes a clock have gone: at 5; its value is there 480 later, the sum 4 after.
    assert warp_cycles(together, H100, {0: 480, 1: 480}) == 1 + 4 + 480 + 4
    apart = code("LDG.E R1, [R8.64]", "FADD R8, R1, R1", "LDG.E R2, [R8.64]", "FADD R3, R2, R2")
    assert warp_cycles(apart, H100, {0: 480, 2: 480}) == 1 + 480 + 4 + 480 + 4


def test_a_loop_in_its_steady_state() -> None:
    # Nothing depends on what was before: as fast as comparisons issue, one in two clocks.
    assert warp_cycles(code("FMNMX R1, R2, R3, PT", "FMNMX R4, R5, R6, PT"), H100, {}, turns=4) == 4
    # A chain goes at its latency.
    assert warp_cycles(code("FADD R1, R1, R2"), H100, {}, turns=4) == 4


COPY = """
        .type           copy,@function
copy:
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/                   IMAD.WIDE R4, R0, 0x10, R2 ;
.L_x_0:
        /*0020*/                   LDG.E.128 R12, [R4.64] ;
        /*0030*/                   STG.E.128 [R4.64], R12 ;
        /*0040*/                   IADD3 R4, R4, 0x2000, RZ ;
        /*0050*/                   ISETP.GE.AND P0, PT, R4, R9, PT ;
        /*0060*/              @!P0 BRA `(.L_x_0) ;
        /*0070*/                   EXIT ;
"""


def copy(programs: int, registers: int = 32, shared: int = 0) -> Report:
    return Report(
        Case("copy"),
        "sm_90",
        warps=4,
        per_thread=4,
        step=512,
        programs=programs,
        read=4,
        written=4,
        fused=(),
        access=16,
        registers=registers,
        stack=0,
        listing=Listing(registers, 0, shared, parse(COPY)),
    )


def test_a_copy_with_full_occupancy_comes_close_to_the_bandwidth() -> None:
    told = predict(copy(LARGE // 16384), H100)
    assert (told.programs, told.occupancy) == (16, 1.0)
    # 64 warps of 512 bytes each, and the memory's 3.35e12 / 132 / 1.755e9 = 14.5 bytes per cycle, 480 of them; half of
    # which are reads. With 3.43 times as many, 1 / √(1 + 1/3.43²) = 0.96.
    assert told.needed == pytest.approx(480 * 14.46 / 2 * 3.43, rel=1e-3)
    # A turn: the load's 480, then the store's slot and two additions.
    assert told.in_flight == pytest.approx(64 * 512, rel=0.05)
    # Latency alone would allow 9.4 times the bandwidth; the issue of 5 instructions for 4 elements hardly counts.
    expected = 1 / (1 + (14.46 / (2 * 64 * 512 / 485)) ** 2 + (14.46 / 8 * 1.25 / 128 * 4) ** 2) ** 0.5
    assert told.share == pytest.approx(expected, rel=0.01)


def test_few_warps_in_flight_starve_the_memory() -> None:
    few = predict(copy(LARGE // 16384, shared=200 << 10), H100)
    many = predict(copy(LARGE // 16384), H100)
    assert few.programs == 1
    assert few.in_flight < 0.6 * few.needed
    assert few.share < 0.6 < 0.97 < many.share
    assert predict(copy(LARGE // 16384, shared=200 << 10), H200).share < few.share


def test_what_is_needed_is_what_the_model_was_calibrated_to() -> None:
    """32 KiB of loads and stores on an H200."""
    assert 2 * predict(copy(LARGE // 16384), H200).needed == pytest.approx(32 << 10, rel=0.05)


def test_the_tail_of_the_last_wave() -> None:
    held = 16 * H100.multiprocessors
    full, over = predict(copy(held), H100), predict(copy(held + 1), H100)
    assert full.waves == 1
    # One program more than fits takes almost as long as all the others together do alone.
    assert over.share < 0.91 * full.share


def test_a_chip_runs_only_its_own_code() -> None:
    with pytest.raises(ValueError, match="A100 runs sm_80"):
        predict(copy(1000), A100)
    with pytest.raises(ValueError, match="not one program fits"):
        predict(dataclasses.replace(copy(1000, registers=255), warps=16), H100)
