"""How a kernel is launched: elements per block, per program and per thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sta_kernels.kernels.buffers import DType
from sta_kernels.kernels.triton import tuned

WARP = 32


@dataclass(frozen=True)
class LaunchConfig:
    """Launch of an elementwise kernel.

    Attributes:
        block: elements that a program holds in registers at a time; a power of two.
        chunk: elements per program; a multiple of ``block``.
        warps: per program.
    """

    block: int
    chunk: int
    warps: int

    def __post_init__(self) -> None:
        if self.block < 1 or self.block & (self.block - 1) or self.chunk < 1 or self.chunk % self.block:
            raise ValueError(f"{self}: a block is a power of two, and a chunk whole blocks")

    @property
    def per_thread(self) -> int:
        """Elements in one thread's registers."""
        return self.block // (self.warps * WARP)


ACCESS = 16
"""Bytes of one thread's widest access to global memory."""


def registers(most: int) -> dict[str, int]:
    """Compiler options that let a thread have so many registers.

    Left alone, NVIDIA's assembler may take more than it needs, or stop at fewer and spill the rest.
    """
    return {} if torch.version.hip else {"maxnreg": most}


def elementwise_config(
    itemsizes: Sequence[int],
    n_elements: int,
    *,
    device: torch.device | None = None,
    op: str = "",
    dtypes: Sequence[DType] = (),
    variant: Sequence[object] = (),
) -> LaunchConfig:
    """Launch of a kernel that reads and writes operands of these element sizes, position by position.

    A thread holds as many elements as make 16 bytes of the narrowest operand, so that every access is 128 bits wide; a
    program takes chunks long enough that what it prepares once per chunk costs little, and short enough that the
    last wave of programs is a small part of all. Where a device, an op, its operands' dtypes and its variant (number
    of tasks, measure) are given, and a table of launches measured on the device has them, its block, longest chunk and
    warps are taken (:mod:`.tuned`).
    """
    measured = None if device is None else tuned.lookup(device, op, dtypes, *variant)
    if measured is None:
        measured = heuristic(itemsizes)
    blocks = measured.blocks
    while blocks > 1 and n_elements < 4096 * measured.block * blocks:
        blocks //= 2
    return LaunchConfig(block=measured.block, chunk=measured.block * blocks, warps=measured.warps)


def heuristic(itemsizes: Sequence[int], *, accesses: int = 1, warps: int = 4, blocks: int = 32) -> tuned.TunedLaunch:
    """A block of so many 128-bit accesses per thread to the narrowest operand."""
    return tuned.TunedLaunch(block=accesses * ACCESS // min(itemsizes) * warps * WARP, blocks=blocks, warps=warps)
