"""Compile a kernel for a chip that is not here, and read what came out."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import triton
from triton import knobs
from triton.compiler import ASTSource

from sta_kernels.kernels.triton.audit.families import FAMILIES, Binding, Case
from sta_kernels.kernels.triton.audit.sass import Function, Listing, disassemble
from sta_kernels.kernels.triton.audit.targets import TARGETS

_AMD_RESOURCES = re.compile(r"^\s*\.(vgpr_count|vgpr_spill_count|private_segment_fixed_size):\s*(\d+)", re.M)


@dataclass(frozen=True)
class Report:
    """What a case became on one architecture.

    Attributes:
        case: what was compiled.
        arch: for what.
        warps: per program.
        per_thread: elements that one thread works on at a time.
        chunk: elements per program.
        bytes_read: per element that must be read at the least.
        bytes_written: likewise.
        fused: fused multiply-adds per element by the function that may hold them.
        registers: per thread.
        stack: bytes of local memory per thread.
        listing: the machine code; None where no disassembler reads it.
    """

    case: Case
    arch: str
    warps: int
    per_thread: int
    chunk: int
    bytes_read: int
    bytes_written: int
    fused: tuple[tuple[str, int], ...]
    registers: int
    stack: int
    listing: Listing | None

    def __str__(self) -> str:
        return f"{self.case} on {self.arch}"

    @property
    def kernel(self) -> Function:
        """The kernel's own code; ValueError where no disassembler reads it."""
        if self.listing is None:
            raise ValueError(f"{self}: no machine code was read")
        return self.listing.kernel


def build(binding: Binding, arch: str, **options: Any) -> Any:
    """Compile; ``options`` replace those that launches use.

    Nothing is taken from a cache and nothing left in one, so that what is read is what the sources say now.
    """
    arguments = {**binding.arguments, **dict.fromkeys(binding.constants, "constexpr")}
    names = binding.kernel.arg_names
    if set(names) != set(arguments):
        raise ValueError(f"{binding.kernel.__name__}: arguments bound amiss: {sorted(set(names) ^ set(arguments))}")
    signature = {name: arguments[name] for name in names}
    # Tables lie at multiples of 16 bytes in one upload; launches see that, and so does this.
    attributes = {
        (index,): [["tt.divisibility", 16]] for index, type_ in enumerate(signature.values()) if type_.startswith("*")
    }
    source = ASTSource(binding.kernel, signature, binding.constants, attributes)
    launch = {"num_warps": binding.config.warps, "enable_fp_fusion": False, **options}
    with tempfile.TemporaryDirectory() as folder, knobs.cache.scope():
        knobs.cache.dir = folder
        return triton.compile(source, target=TARGETS[arch], options=launch)


def audit(case: Case, arch: str) -> Report:
    """Compile a case for an architecture and read its machine code."""
    return inspect(case, FAMILIES[case.op](case), arch)


def inspect(case: Case, binding: Binding, arch: str, **options: Any) -> Report:
    """Like :func:`audit`, of a binding and with compiler options of the caller's."""
    compiled = build(binding, arch, **options)
    listing = None
    if TARGETS[arch].backend == "cuda":
        listing = disassemble(compiled.asm["cubin"])
        registers, stack = listing.registers, listing.stack
    else:
        found = {name: int(value) for name, value in _AMD_RESOURCES.findall(compiled.asm["amdgcn"])}
        registers, stack = found["vgpr_count"], found["private_segment_fixed_size"]
    return Report(
        case,
        arch,
        binding.config.warps,
        binding.config.per_thread,
        binding.config.chunk,
        binding.bytes_read,
        binding.bytes_written,
        tuple(binding.fused.items()),
        registers,
        stack,
        listing,
    )


Pair = tuple[Case, str]
"""A case and an architecture."""


@contextlib.contextmanager
def auditing(pairs: Iterable[Pair]) -> Iterator[dict[Pair, Future[Report]]]:
    """Reports to come, from one process per processor: Triton's settings there do not touch those here."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool:
        try:
            yield {pair: pool.submit(audit, *pair) for pair in pairs}
        finally:
            pool.shutdown(cancel_futures=True)
