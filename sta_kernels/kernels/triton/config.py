"""How a kernel is launched: elements per block, per program and per thread."""

from __future__ import annotations

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
