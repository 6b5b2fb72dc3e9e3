"""Read the machine code of a compiled kernel: instructions with their source lines, basic blocks, loops."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from triton import knobs

from sta_kernels.kernels.triton.audit.targets import Pipe

_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*([^;]*?)\s*;")
_LABEL = re.compile(r"^(\.L_x_\d+|[$\w]+):")
_FUNCTION = re.compile(r"^\s+\.type\s+([$\w]+),@function")
_LINE = re.compile(r'"([^"]+)", line (\d+)')
_TARGET = re.compile(r"`\(([^)]+)\)")
_PTX_FILE = re.compile(r'^\s*\.file\s+(\d+)\s+"([^"]+)"', re.M)
_PTX_LINE = re.compile(r"^\s*\.loc\s+(\d+)\s+(\d+)")
_PTX_ACCESS = re.compile(r"\b(ld|st|atom|red)\.(\w+\.)*global\b")
_RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)")


@dataclass(frozen=True)
class Frame:
    """A line of Python that an instruction comes from."""

    file: str
    line: int

    @property
    def function(self) -> str:
        """The function whose body holds the line."""
        return _function_at(self.file, self.line)

    @property
    def text(self) -> str:
        """The line itself."""
        lines = _lines(self.file)
        return lines[self.line - 1].strip() if 0 < self.line <= len(lines) else ""

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line} ({self.function}): {self.text}"


@dataclass(frozen=True)
class Instruction:
    """One machine instruction.

    Attributes:
        address: within its section.
        predicate: register that it depends on, without ``@``; empty where it always runs.
        opcode: with its modifiers, such as ``LDG.E.128``.
        operands: as printed.
        frames: the line of Python it comes from, then those that it was inlined at, outwards.
    """

    address: int
    predicate: str
    opcode: str
    operands: str
    frames: tuple[Frame, ...]

    @property
    def name(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.split(".")[0]

    @property
    def target(self) -> str | None:
        """The label that a branch or call names."""
        found = _TARGET.search(self.operands)
        return found.group(1) if found else None

    @property
    def jumps(self) -> bool:
        """Whether it may go on elsewhere in its function; some compilers leave a loop by a call to a label."""
        return self.name == "BRA" or (self.name == "CALL" and (self.target or "").startswith(".L_"))

    @property
    def calls(self) -> bool:
        """Whether it calls a function."""
        return self.name == "CALL" and not self.jumps

    @property
    def leaves(self) -> bool:
        """Whether a basic block ends with it."""
        return self.jumps or self.name in {"EXIT", "RET"}

    @property
    def is_global(self) -> bool:
        """Whether it reads or writes global memory, atomics excepted."""
        return self.name in {"LDG", "STG", "LDGSTS"}

    @property
    def width(self) -> int:
        """Bytes that one thread moves, of an access to memory."""
        for part in self.opcode.split(".")[1:]:
            if part in _WIDTHS:
                return _WIDTHS[part]
        return 4

    @property
    def pipe(self) -> Pipe:
        """What executes it."""
        return _pipe(self.opcode)

    def __str__(self) -> str:
        predicate = f"@{self.predicate} " if self.predicate else ""
        source = f" from {self.frames[0]}" if self.frames else ""
        return f"{predicate}{self.opcode} {self.operands} at {self.address:#x}{source}"


_WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}
_FMA = {"FADD", "FMUL", "FFMA", "FADD2", "FMUL2", "FFMA2", "FSWZADD", "HFMA2", "HADD2", "HMUL2", "FADD32I", "FFMA32I"}
_XU = {"MUFU", "F2F", "F2I", "I2F", "FRND", "POPC", "FLO", "BREV"}
_FP64 = {"DADD", "DMUL", "DFMA", "DSETP"}
_LSU = {"LDG", "STG", "LDGSTS", "LDS", "STS", "LDL", "STL", "LD", "ST", "SHFL", "ATOM", "ATOMG", "ATOMS", "RED", "REDG"}
_LSU |= {"LDC", "LDSM", "STSM", "MATCH", "REDUX", "CCTL", "MEMBAR", "ERRBAR", "S2R", "CS2R"}
_CONTROL = {"BRA", "BRX", "EXIT", "RET", "CALL", "BSSY", "BSYNC", "BREAK", "BAR", "NOP", "WARPSYNC", "DEPBAR", "YIELD"}
_UNIFORM = {"S2UR", "R2UR", "VOTEU", "REDUX"}


def _pipe(opcode: str) -> Pipe:
    name = opcode.split(".")[0]
    if name in _CONTROL:
        return Pipe.CONTROL
    if name in _LSU:
        return Pipe.LSU
    if name in _XU:
        return Pipe.XU
    if name in _FP64:
        return Pipe.FP64
    if name in _FMA:
        return Pipe.FMA
    if name == "IMAD":
        return Pipe.IMAD
    if name in _UNIFORM or (name.startswith("U") and name != "USETMAXREG"):
        return Pipe.UNIFORM
    return Pipe.ALU  # FMNMX, FSETP, FSEL, ISETP, SEL, IADD3, VIADD, LEA, LOP3, SHF, PRMT, MOV, F2FP, …


@dataclass(frozen=True)
class Block:
    """Instructions that run one after the other; ``successors`` are indices of blocks."""

    instructions: tuple[Instruction, ...]
    successors: tuple[int, ...]


@dataclass(frozen=True)
class Function:
    """A function's basic blocks in the order of their addresses."""

    name: str
    blocks: tuple[Block, ...]

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """All of them, in the order of their addresses."""
        return tuple(instruction for block in self.blocks for instruction in block.instructions)

    def loops(self) -> list[frozenset[int]]:
        """Blocks of each natural loop; those with one head count as one loop. Inner ones come before outer ones."""
        before: dict[int, set[int]] = {}
        for index, block in enumerate(self.blocks):
            for successor in block.successors:
                before.setdefault(successor, set()).add(index)
        found: dict[int, set[int]] = {}
        for index, block in enumerate(self.blocks):
            for head in block.successors:
                # Compilers lay out loops with the head first; a branch to oneself is one too.
                if head <= index:
                    body = found.setdefault(head, {head})
                    waiting = [index]
                    while waiting:
                        current = waiting.pop()
                        if current not in body:
                            body.add(current)
                            waiting += before.get(current, ())
        return sorted((frozenset(body) for body in found.values()), key=len)


@dataclass(frozen=True)
class Listing:
    """The machine code of one kernel.

    Attributes:
        registers: per thread.
        stack: bytes per thread.
        shared: bytes per program.
        functions: the kernel, then what it calls.
    """

    registers: int
    stack: int
    shared: int
    functions: tuple[Function, ...]

    @property
    def kernel(self) -> Function:
        """What is launched."""
        return self.functions[0]


def disassemble(cubin: bytes, ptx: str) -> Listing:
    """Read a cubin with ``nvdisasm`` and ``cuobjdump``, which Triton brings along, and the PTX that it came from."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        # Its analysis of branches would take a quarter of its time; labels and branches are there without.
        code = _run(knobs.nvidia.nvdisasm.path, "-c", "--no-dataflow", "--print-line-info-inline", str(path))
        usage = _run(knobs.nvidia.cuobjdump.path, "-res-usage", str(path))
    found = _RESOURCES.search(usage)
    if found is None:
        raise ValueError(f"cuobjdump -res-usage names no resources: {usage!r}")
    registers, stack, shared = map(int, found.groups())
    return Listing(registers, stack, shared, parse(code, assembly_lines(ptx)))


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def assembly_lines(ptx: str) -> dict[Frame, Frame]:
    """Where accesses to memory come from, by where the line table says.

    Triton writes them as inline assembly of several lines, each of which counts as one more line of Python.
    """
    files = dict(_PTX_FILE.findall(ptx))
    true: Frame | None = None
    told, found, inside = None, {}, False
    for line in ptx.splitlines():
        if "// begin inline asm" in line:
            inside, true = True, None
        elif "// end inline asm" in line:
            inside = False
        elif inside and (location := _PTX_LINE.match(line)):
            told = Frame(files.get(location.group(1), ""), int(location.group(2)))
            true = true or told
        elif inside and true and told and _PTX_ACCESS.search(line):
            found[told] = true
    return found


def parse(code: str, moved: Mapping[Frame, Frame] = MappingProxyType({})) -> tuple[Function, ...]:
    """Functions of one section of ``nvdisasm -c --print-line-info-inline``, the kernel first.

    Args:
        code: what it printed.
        moved: lines that accesses to memory come from, where the line table has others.
    """
    names: list[str] = []
    bodies: list[list[Instruction]] = []
    labels: list[dict[str, int]] = []
    frames: list[Frame] = []
    fresh = True
    declared: set[str] = set()
    for line in code.splitlines():
        if line.lstrip().startswith("//## File"):
            if fresh:
                frames, fresh = [], False
            frames += [Frame(file, int(number)) for file, number in _LINE.findall(line)]
            continue
        if found := _FUNCTION.match(line):
            declared.add(found.group(1))
        elif found := _LABEL.match(line):
            name = found.group(1)
            if name in declared:
                names.append(name)
                bodies.append([])
                labels.append({})
            elif bodies:
                labels[-1][name] = len(bodies[-1])
        elif (found := _INSTRUCTION.match(line)) and bodies:
            address, predicate, opcode, operands = found.groups()
            fresh = True
            one = Instruction(int(address, 16), predicate or "", opcode, operands, tuple(dict.fromkeys(frames)))
            if one.frames and one.is_global:
                one = replace(one, frames=(moved.get(one.frames[0], one.frames[0]), *one.frames[1:]))
            bodies[-1].append(one)
    return tuple(
        Function(name, _blocks(body, places)) for name, body, places in zip(names, bodies, labels, strict=True)
    )


def _blocks(body: Sequence[Instruction], labels: dict[str, int]) -> tuple[Block, ...]:
    starts = {0, *labels.values()}
    starts |= {index + 1 for index, instruction in enumerate(body) if instruction.leaves}
    cuts = sorted(start for start in starts if start < len(body))
    index_of = {start: index for index, start in enumerate(cuts)}
    blocks = []
    for index, start in enumerate(cuts):
        instructions = tuple(body[start : cuts[index + 1] if index + 1 < len(cuts) else len(body)])
        last = instructions[-1]
        # A branch may carry a second condition before its label; BRA.DIV is taken by warps that have diverged.
        certain = not last.predicate and (last.name != "BRA" or last.operands.startswith("`"))
        successors = []
        if last.jumps and not last.opcode.startswith("BRA.DIV") and last.target in labels:
            successors.append(index_of[labels[last.target]])
        if not (last.leaves and certain) and index + 1 < len(cuts):
            successors.append(index + 1)
        blocks.append(Block(instructions, tuple(successors)))
    return tuple(blocks)


@functools.cache
def _lines(file: str) -> tuple[str, ...]:
    return tuple(Path(file).read_text(encoding="utf-8").splitlines())


@functools.cache
def _functions(file: str) -> tuple[tuple[int, int, str], ...]:
    tree = ast.parse("\n".join(_lines(file)))
    nodes: Iterable[ast.AST] = ast.walk(tree)
    return tuple(
        (node.lineno, node.end_lineno or node.lineno, node.name) for node in nodes if isinstance(node, ast.FunctionDef)
    )


def _function_at(file: str, line: int) -> str:
    inner = [(end - start, name) for start, end, name in _functions(file) if start <= line <= end]
    return min(inner)[1] if inner else ""
