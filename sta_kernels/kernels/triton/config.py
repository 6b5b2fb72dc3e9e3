"""How a kernel is launched: elements per block, per program and per thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

    @property
    def per_thread(self) -> int:
        """Elements in one thread's registers."""
        return self.block // (self.warps * WARP)


ACCESS = 16
"""Bytes of one thread's widest access to global memory."""


def elementwise_config(itemsizes: Sequence[int], n_elements: int) -> LaunchConfig:
    """Launch of a kernel that reads and writes operands of these element sizes, position by position.

    A thread holds as many elements as make 16 bytes of the narrowest operand, so that every access is 128 bits wide; a
    program takes chunks long enough that what it prepares once per chunk costs little, and short enough that the
    last wave of programs is a small part of all.
    """
    warps = 4
    block = ACCESS // min(itemsizes) * warps * WARP
    blocks = 32
    while blocks > 1 and n_elements < 4096 * block * blocks:
        blocks //= 2
    return LaunchConfig(block=block, chunk=block * blocks, warps=warps)
