"""A range of a job, and the bytes of its operands."""

from __future__ import annotations

from typing import Any

import numpy as np

from sta_kernels.checkpoint.entry import KERNEL_DTYPES
from sta_kernels.engine.jobs import Job, Operand
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.methods.base import Operands


class Tile:
    """A range of a job, and the bytes of its operands.

    Args:
        job: whose range it is.
        start: first unit.
        stop: unit after the last.
    """

    def __init__(self, job: Job, start: int, stop: int) -> None:
        self.job = job
        self.start = start
        self.stop = stop
        self.bytes_read = 0
        self._pieces: dict[tuple[int, str], tuple[memoryview, int]] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the segment, where this is all of it."""
        count = self.stop - self.start
        return self.job.place.shape if self.job.in_elements and count == self.job.size else (count,)

    def part(self, start: int, stop: int) -> Tile:
        """Another range of the job, in the same memory."""
        part = Tile(self.job, start, stop)
        for (index, name), (view, address) in self._pieces.items():
            part._pieces[index, name] = (view, address)
        return part

    def put(self, operand: Operand, view: memoryview, address: int) -> None:
        """An operand's bytes, and where they lie."""
        self._pieces[operand.input, operand.name] = (view, address)
        self.bytes_read += len(view)

    def has(self, operand: Operand) -> bool:
        """Whether it was read."""
        return (operand.input, operand.name) in self._pieces

    def view(self, operand: Operand) -> memoryview:
        """Its bytes."""
        return self._pieces[operand.input, operand.name][0]

    def address(self, operand: Operand) -> int:
        """Where they lie."""
        return self._pieces[operand.input, operand.name][1]

    def buffer(self, operand: Operand) -> Buffer:
        """It as kernels see it."""
        view, address = self._pieces[operand.input, operand.name]
        return Buffer(address, KERNEL_DTYPES[operand.dtype], operand.shape or self.shape, None, view)

    def operands(self) -> Operands:
        """By role; what was not read is left out, and must not be asked for."""

        def of(role: str) -> tuple[Any, ...]:
            return tuple(self.buffer(operand) if self.has(operand) else None for operand in self.job.of_role(role))

        return Operands(
            models=of("model"),
            base=next(iter(of("base")), None),
            importances=of("importance"),
            target=next(iter(of("target")), None),
            offset=self.job.start + self.start,
        )

    def position(self, index: int, operand: Operand | None = None) -> list[int]:
        """Index per dimension of an element of this tile in its tensor."""
        if operand is not None and operand.shape is not None:
            return [int(i) for i in np.unravel_index(index, operand.shape)]
        where = np.unravel_index(self.job.start + self.start + index, self.job.shape) if self.job.shape else ()
        return [int(i) for i in where]
