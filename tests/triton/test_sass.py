"""Machine code is read as it is written: functions, loops, source lines, registers, what threads share."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from sta_kernels.kernels.triton.audit.flow import own_addresses, registers
from sta_kernels.kernels.triton.audit.sass import Frame, Function, Instruction, assembly_lines, parse
from sta_kernels.kernels.triton.audit.targets import Pipe

CODE = f"""
	.section	.text.copy,"ax",@progbits
        .type           copy,@function
copy:
.text.copy:
	//## File "{__file__}", line 3
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/                   LDG.E.64 R2, [R10.64] ;
        /*0020*/                   IMAD.WIDE R4, R0, 0x10, R2 ;
        /*0030*/              @!P0 BRA `(.L_x_1) ;
.L_x_0:
	//## File "{__file__}", line 8 inlined at "{__file__}", line 12
        /*0040*/                   LDG.E.128 R12, [R4.64] ;
        /*0050*/                   LDG.E R20, [R2.64+0x8] ;
        /*0060*/               @P1 CALL.REL.NOINC `(plain) ;
        /*0070*/                   IADD3 R5, R5, 0x200, RZ ;
        /*0080*/                   STG.E.128 [R4.64], R12 ;
        /*0090*/               @P2 CALL.REL.NOINC `(.L_x_1) ;
        /*00a0*/                   BRA `(.L_x_0) ;
.L_x_1:
        /*00b0*/                   EXIT ;
        .type           plain,@function
plain:
        /*00c0*/                   LDL R1, [R1] ;
        /*00d0*/                   RET.REL.NODEC R126 `(copy) ;
"""


@pytest.fixture(scope="module")
def functions() -> tuple[Function, ...]:
    return parse(CODE)


def test_functions_are_told_apart(functions) -> None:
    assert [(function.name, len(function.instructions)) for function in functions] == [("copy", 12), ("plain", 2)]


def test_a_loop_ends_where_it_is_left_by_a_call_to_a_label(functions) -> None:
    (loop,) = functions[0].loops()
    inside = [one.address for index in sorted(loop) for one in functions[0].blocks[index].instructions]
    assert inside == list(range(0x40, 0xB0, 0x10))


def test_source_lines_follow_what_was_inlined(functions) -> None:
    instructions = functions[0].instructions
    assert [frame.line for frame in instructions[0].frames] == [3]
    assert [frame.line for frame in instructions[4].frames] == [8, 12]
    assert [frame.line for frame in instructions[-1].frames] == [8, 12]
    assert "test_sass.py:8" in str(instructions[4])


def test_lines_within_inline_assembly_count_as_the_first() -> None:
    ptx = f"""
	.file	1 "{__file__}"
	.loc	1 20 4
	// begin inline asm
	.loc	1 20 4
	mov.u32 %r1, 0x0;
	.loc	1 21 4
	ld.global.b32 {{ %r1 }}, [ %rd1 + 0 ];
	// end inline asm
"""
    assert assembly_lines(ptx) == {Frame(__file__, 21): Frame(__file__, 20)}
    moved = {Frame(__file__, 8): Frame(__file__, 6)}
    lines = [one.frames[0].line for one in parse(CODE, moved)[0].instructions[4:8]]
    assert lines == [6, 6, 8, 8]  # accesses to global memory alone


def test_tables_are_read_at_addresses_that_threads_share(functions) -> None:
    assert own_addresses(functions[0]) == {0x40, 0x80}


def instruction(opcode: str, operands: str, predicate: str = "") -> Instruction:
    return Instruction(0, predicate, opcode, operands, ())


@pytest.mark.parametrize(
    ("one", "reads", "writes"),
    [
        (instruction("FFMA", "R3, -R5, R4, 1"), {"R5", "R4"}, {"R3"}),
        (instruction("LDG.E.128", "R4, desc[UR4][R8.64+0x10]"), {"UR4", "R8", "R9"}, {"R4", "R5", "R6", "R7"}),
        (instruction("STG.E.64", "[R8.64], R2", "P1"), {"R8", "R9", "R2", "R3", "P1"}, set()),
        (instruction("FSETP.GT.AND", "P0, PT, R1, R2, PT"), {"R1", "R2"}, {"P0"}),
        (instruction("IADD3", "R14, P0, R4, UR6, RZ"), {"R4", "UR6"}, {"R14", "P0"}),
        (instruction("SHFL.BFLY", "PT, R5, R4, 0x10, 0x1f"), {"R4"}, {"R5"}),
        (instruction("IMAD.WIDE", "R4, R0, 0x30, R6"), {"R0", "R6"}, {"R4", "R5"}),
        (instruction("BRA", "`(.L_x_1)", "!P0"), {"P0"}, set()),
    ],
    ids=lambda value: str(value) if isinstance(value, Instruction) else "",
)
def test_registers(one: Instruction, reads: set[str], writes: set[str]) -> None:
    assert registers(one) == (reads, writes)


@pytest.mark.parametrize(
    ("opcode", "pipe"),
    [
        ("FMNMX", Pipe.ALU),
        ("FSETP.GT.AND", Pipe.ALU),
        ("F2FP.BF16.F32.PACK_AB", Pipe.ALU),
        ("FADD", Pipe.FMA),
        ("IMAD.WIDE", Pipe.IMAD),
        ("MUFU.RCP", Pipe.XU),
        ("DADD", Pipe.FP64),
        ("SHFL.BFLY", Pipe.LSU),
        ("UIADD3", Pipe.UNIFORM),
        ("BAR.SYNC", Pipe.CONTROL),
    ],
)
def test_pipes(opcode: str, pipe: Pipe) -> None:
    assert instruction(opcode, "").pipe is pipe


def test_widths() -> None:
    widths = [
        instruction(code, "").width for code in ("LDG.E", "LDG.E.U16", "LDG.E.64", "STG.E.128", "LDG.E.128.STRONG")
    ]
    assert widths == [4, 2, 8, 16, 16]
