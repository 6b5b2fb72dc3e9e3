"""Compile a kernel for a chip that is not here, and read what came out."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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


def build(launched: Launched, arch: str, ttir: str | None = None, **options: Any) -> Any:
    """Compile with the launch's own compiler options, but for those given.

    Nothing is taken from a cache and nothing left in one, so that what is read is what the sources say now.

    Args:
        launched: the kernel with its arguments.
        arch: a key of :data:`~sta_kernels.kernels.triton.audit.targets.TARGETS`.
        ttir: what Triton made of the sources for another architecture of the same vendor, whose intermediate code does
            not differ yet; None makes it anew.
        options: of the compiler.
    """
    with tempfile.TemporaryDirectory() as folder, knobs.cache.scope():
        knobs.cache.dir = folder
        source: Any = source_of(launched) if ttir is None else str(Path(folder) / "kernel.ttir")
        if ttir is not None:
            Path(source).write_text(ttir, encoding="utf-8")
        return triton.compile(source, target=TARGETS[arch], options={**launched.options, **options})


def audit(case: Case, arch: str) -> Report:
    """Compile a case for an architecture and read its machine code."""
    (report,) = audit_each(case, [arch])
    return report


def audit_each(case: Case, archs: Sequence[str]) -> Iterator[Report]:
    """Like :func:`audit`, for several architectures: those of one vendor share what Triton makes of the sources."""
    binding = FAMILIES[case.op](case)
    shared: dict[str, str] = {}
    for arch in archs:
        vendor = TARGETS[arch].backend
        compiled = build(binding.launched, arch, shared.get(vendor))
        shared.setdefault(vendor, compiled.asm["ttir"])
        yield _read(case, binding, arch, compiled)


def inspect(case: Case, binding: Binding, arch: str, **options: Any) -> Report:
    """Like :func:`audit`, of a binding and with compiler options of the caller's."""
    return _read(case, binding, arch, build(binding.launched, arch, **options))


def _read(case: Case, binding: Binding, arch: str, compiled: Any) -> Report:
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

T = TypeVar("T")


def whole(report: Report) -> Report:
    """A report as it is, with all of its machine code."""
    return report


@contextlib.contextmanager
def auditing(pairs: Iterable[Pair], read: Callable[[Report], T] = whole) -> Iterator[dict[Pair, Future[T]]]:
    """What is read of reports to come, from one process per processor: Triton's settings there do not touch those here.

    Args:
        pairs: what to compile; architectures of one case are compiled one after the other.
        read: takes what is wanted from a report, there; of thousands, reports do not fit the memory.
    """
    found: dict[Pair, Future[T]] = {pair: Future() for pair in pairs}
    cases: dict[Case, list[str]] = {}
    for case, arch in found:
        cases.setdefault(case, []).append(arch)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool:
        try:
            for case, archs in cases.items():
                there = pool.submit(_audited, case, archs, read)
                there.add_done_callback(functools.partial(_hand_out, [found[case, arch] for arch in archs]))
            yield found
        finally:
            pool.shutdown(cancel_futures=True)


def _audited(case: Case, archs: Sequence[str], read: Callable[[Report], T]) -> list[T]:
    return [read(report) for report in audit_each(case, archs)]


def _hand_out(parts: Sequence[Future[T]], done: Future[list[T]]) -> None:
    if done.cancelled():
        for part in parts:
            part.cancel()
    elif error := done.exception():
        for part in parts:
            part.set_exception(error)
    else:
        for part, result in zip(parts, done.result(), strict=True):
            part.set_result(result)
