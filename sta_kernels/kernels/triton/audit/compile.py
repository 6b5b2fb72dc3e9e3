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

from sta_kernels.kernels.triton.audit.families import FAMILIES, Binding, Case
from sta_kernels.kernels.triton.audit.record import Launched, source_of
from sta_kernels.kernels.triton.audit.sass import Function, Listing, disassemble
from sta_kernels.kernels.triton.audit.targets import TARGETS, WARP

_AMD_RESOURCES = re.compile(r"^\s*\.(vgpr_count|vgpr_spill_count|private_segment_fixed_size):\s*(\d+)", re.M)


@dataclass(frozen=True)
class Report:
    """What a case became on one architecture.

    Attributes:
        case: what was compiled.
        arch: for what.
        warps: per program.
        per_thread: elements that one thread works on at a time.
        step: what the counter of the loop over elements advances by for them.
        programs: of the launch over :data:`~sta_kernels.kernels.triton.audit.families.LARGE` elements.
        read: bytes per element that must be read at the least.
        written: likewise.
        fused: fused multiply-adds per element by the function that may hold them.
        access: bytes of the narrowest access to an operand that is as meant.
        registers: per thread.
        stack: bytes of local memory per thread.
        listing: the machine code; None where no disassembler reads it.
    """

    case: Case
    arch: str
    warps: int
    per_thread: int
    step: int
    programs: int
    read: int
    written: int
    fused: tuple[tuple[str, int], ...]
    access: int
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


def build(launched: Launched, arch: str, **options: Any) -> Any:
    """Compile with the launch's own compiler options, but for those given.

    Nothing is taken from a cache and nothing left in one, so that what is read is what the sources say now.
    """
    with tempfile.TemporaryDirectory() as folder, knobs.cache.scope():
        knobs.cache.dir = folder
        return triton.compile(source_of(launched), target=TARGETS[arch], options={**launched.options, **options})


def audit(case: Case, arch: str) -> Report:
    """Compile a case for an architecture and read its machine code."""
    return inspect(case, FAMILIES[case.op](case), arch)


def inspect(case: Case, binding: Binding, arch: str, **options: Any) -> Report:
    """Like :func:`audit`, of a binding and with compiler options of the caller's."""
    compiled = build(binding.launched, arch, **options)
    listing = None
    if TARGETS[arch].backend == "cuda":
        listing = disassemble(compiled.asm["cubin"], compiled.asm["ptx"])
        registers, stack = listing.registers, listing.stack
    else:
        found = {name: int(value) for name, value in _AMD_RESOURCES.findall(compiled.asm["amdgcn"])}
        registers, stack = found["vgpr_count"], found["private_segment_fixed_size"]
    warps = binding.launched.options["num_warps"]
    return Report(
        case,
        arch,
        warps,
        max(1, binding.block // (warps * WARP)),
        binding.step,
        binding.launched.programs,
        binding.read,
        binding.written,
        tuple(binding.fused.items()),
        binding.access,
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
