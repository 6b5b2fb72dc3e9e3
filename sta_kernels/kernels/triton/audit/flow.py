"""What flows where in machine code: registers, values that all threads share, the loop that does the work."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from sta_kernels.kernels.triton.audit.compile import Report
from sta_kernels.kernels.triton.audit.sass import Block, Function, Instruction

_REGISTER = re.compile(r"(?<![\w.])(U?R|U?P)(\d+)(\.64)?")
_SILENT = {"STG", "STS", "STL", "ST", "RED", "REDG", "BRA", "BRX", "EXIT", "RET", "BSSY", "BSYNC", "BAR", "CALL", "NOP"}
_SILENT |= {"WARPSYNC", "DEPBAR", "MEMBAR", "ERRBAR", "CCTL", "YIELD"}
_PAIRS = {"DADD", "DMUL", "DFMA", "CS2R"}
_MEMORY = {"LDG", "LDS", "LDL", "LDC", "LDSM", "LD", "STG", "STS", "STL", "ST", "ULDC", "ATOMG", "ATOM", "ATOMS", "RED"}
# Values that differ from thread to thread of a warp or program.
_OWN = re.compile(r"SR_TID|SR_LANEID|SR_(EQ|LT|LE|GT|GE)MASK")
_ADDITIONS = {"IADD", "IADD3", "UIADD3", "VIADD"}
_INCREMENT = re.compile(r"^(U?R\d+), (?:U?P\d, )?\1, (0x[0-9a-f]+)(?:, U?RZ)?$")
# Answers that are kept: for more kernels than the covering set has, for fewer than would fill the memory.
_MOST_REPORTS = 128
_MOST_INSTRUCTIONS = 1 << 15


@functools.lru_cache(_MOST_INSTRUCTIONS)
def registers(instruction: Instruction) -> tuple[frozenset[str], frozenset[str]]:
    """Registers and predicates that an instruction reads, and those that it writes."""
    operands = instruction.operands.split(", ")
    results = 0 if instruction.name in _SILENT else 1
    if results:
        # A carry, or the other half of a comparison, follows the result; a shuffle's predicate precedes it.
        while results < min(3, len(operands)) and re.fullmatch(r"U?P(\d|T)", operands[results]) and results < 2:
            results += 1
        if instruction.name == "SHFL":
            results = 2
    width = instruction.width // 4 if instruction.name in _MEMORY else 1
    if instruction.name in _PAIRS or "WIDE" in instruction.opcode or instruction.opcode.startswith("F2F.F64"):
        width = 2
    writes = set().union(*(_tokens(operand, width) for operand in operands[:results])) if results else set()
    reads: set[str] = set()
    for operand in operands[results:]:
        data = instruction.name in _SILENT and "[" not in operand
        reads |= _tokens(operand, width if data or instruction.name in _PAIRS else 1)
    if instruction.predicate:
        reads.add(instruction.predicate.lstrip("!"))
    return frozenset(reads), frozenset(writes)


def _tokens(operand: str, width: int) -> set[str]:
    found = set()
    for kind, number, pair in _REGISTER.findall(operand):
        count = 1 if kind.endswith("P") else max(width, 2 if pair else 1)
        found |= {f"{kind}{int(number) + step}" for step in range(count)}
    return found


def own_addresses(function: Function) -> frozenset[int]:
    """Addresses of memory accesses at which threads differ: where thread numbers, or loads by them, flow."""
    entering: list[set[str]] = [set() for _ in function.blocks]
    reached = [False] * len(function.blocks)
    waiting = [0]
    found: set[int] = set()
    while waiting:
        index = waiting.pop()
        reached[index] = True
        leaving = _through(function.blocks[index], set(entering[index]), found)
        for successor in function.blocks[index].successors:
            if not reached[successor] or not leaving <= entering[successor]:
                entering[successor] |= leaving
                waiting.append(successor)
    return frozenset(found)


def _through(block: Block, own: set[str], found: set[int]) -> set[str]:
    for instruction in block.instructions:
        reads, writes = registers(instruction)
        if instruction.name in _MEMORY and (place := re.findall(r"\[[^\[\]]*\]", instruction.operands)):
            differs = bool(_tokens(" ".join(place), 1) & own)
            if differs:
                found.add(instruction.address)
        else:
            differs = bool(reads & own) or bool(_OWN.search(instruction.operands))
        if differs:
            own |= writes
        elif not instruction.predicate:
            own -= writes
    return own


@dataclass(frozen=True)
class MainLoop:
    """The part of a kernel that runs once per block of elements, on its fast path.

    Attributes:
        prologue: what runs before it, on the way straight there.
        instructions: of one turn; calls, and the blocks that hold them, are not of the fast path.
        elements: per thread and turn.
        accesses: those to operands, at addresses that differ by thread.
        tables: those to tables, at addresses that all threads share.
    """

    prologue: tuple[Instruction, ...]
    instructions: tuple[Instruction, ...]
    elements: int
    accesses: tuple[Instruction, ...]
    tables: tuple[Instruction, ...]

    @property
    def bytes_read(self) -> float:
        """Per element, of operands."""
        return sum(access.width for access in self.accesses if access.name != "STG") / self.elements

    @property
    def bytes_written(self) -> float:
        """Per element."""
        return sum(access.width for access in self.accesses if access.name == "STG") / self.elements


@functools.lru_cache(_MOST_REPORTS)
def main_loop(report: Report) -> MainLoop:
    """Find the loop that moves most bytes without a mask; all of a kernel that has no loop."""
    function = report.kernel
    own = own_addresses(function)

    def moved(blocks: tuple[int, ...]) -> tuple[int, int]:
        accesses = [one for one in _instructions(function, blocks) if one.is_global and one.address in own]
        return sum(one.width for one in accesses if not one.predicate), sum(one.width for one in accesses)

    loops = [path for loop in function.loops() if moved(path := _fast(function, loop))[1]]
    if loops:
        chosen = max(loops, key=moved)
        before = _fast(function, frozenset(range(min(chosen))))
        turns = _turns(function, chosen, report.step)
    else:
        chosen, before, turns = _fast(function, frozenset(range(len(function.blocks)))), (), 1
    instructions = _instructions(function, chosen)
    accesses = tuple(one for one in instructions if one.is_global and one.address in own)
    tables = tuple(one for one in instructions if one.is_global and one.address not in own)
    return MainLoop(_instructions(function, before), instructions, report.per_thread * turns, accesses, tables)


def _instructions(function: Function, blocks: Iterable[int]) -> tuple[Instruction, ...]:
    return tuple(one for index in blocks for one in function.blocks[index].instructions)


def _fast(function: Function, blocks: frozenset[int]) -> tuple[int, ...]:
    """Blocks on a way from the first of them that makes no call, in the order of their addresses."""
    calls = {index for index in blocks if any(one.calls for one in function.blocks[index].instructions)}
    waiting, reached = [min(blocks)], set[int]()
    while waiting:
        index = waiting.pop()
        if index not in reached and index in blocks and index not in calls:
            reached.add(index)
            waiting += function.blocks[index].successors
    return tuple(sorted(reached))


def _turns(function: Function, loop: tuple[int, ...], step: int) -> int:
    """Blocks of elements per turn, where the compiler unrolled: what the counter that the loop tests advances by."""
    tested = set[str]()
    for index in loop:
        if loop[0] in function.blocks[index].successors:
            tested |= _tested(function.blocks[index])
    for instruction in _instructions(function, loop):
        found = _INCREMENT.match(instruction.operands) if instruction.name in _ADDITIONS else None
        if found and found.group(1) in tested and int(found.group(2), 16) in {step, 2 * step, 4 * step, 8 * step}:
            return int(found.group(2), 16) // step
    return 1


def _tested(block: Block) -> set[str]:
    """Registers that the comparisons behind a block's last branch read."""
    *before, branch = block.instructions
    wanted = set(registers(branch)[0])
    found = set[str]()
    for one in reversed(before):
        reads, writes = registers(one)
        if writes & wanted:
            wanted -= writes
            wanted |= {name for name in reads if "P" in name}
            if one.name in {"ISETP", "UISETP"}:
                found |= {name for name in reads if "R" in name}
    return found
