"""Fields as importances: what a statistic is to reduce is evaluated into scratch memory first, in bounded parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from sta_kernels.kernels.backend import LEAF
from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.kernels.formula import FormulaSource, Source
from sta_kernels.kernels.triton.evaluate import EvaluateSegment, launch_evaluate
from sta_kernels.kernels.triton.packing import Packed

SCRATCH = 8 << 20
"""Elements of fields that are held at a time: 32 MiB, which recent GPUs keep in their second-level cache."""


@dataclass(frozen=True)
class Part:
    """Some elements of a source.

    Attributes:
        which: of the sources.
        start: first element, a multiple of a leaf.
        source: contiguous; an importance as it is, or a field.
    """

    which: int
    start: int
    source: Source

    @property
    def leaves(self) -> slice:
        """Of its source."""
        return slice(self.start // LEAF, -(-(self.start + self.source.size) // LEAF))


def parts(packed: Packed, sources: Sequence[Source]) -> Iterator[list[Part]]:
    """All sources in order, in groups whose fields fit the scratch memory; a field that does not is cut.

    Args:
        packed: what keeps operands that had to be packed.
        sources: any.
    """
    group: list[Part] = []
    held = 0
    for which, source in enumerate(sources):
        if isinstance(source, ImportanceSource):
            group.append(Part(which, 0, packed.source(source)))
            continue
        dense = packed.source(source)
        for start in range(0, dense.size, SCRATCH) or (0,):
            size = min(dense.size - start, SCRATCH)
            if group and held + size > SCRATCH:
                yield group
                group, held = [], 0
            group.append(Part(which, start, part_of(dense, start, start + size)))
            held += size
    if group:
        yield group


def part_of(source: FormulaSource, start: int, stop: int) -> FormulaSource:
    """Some elements of a field of contiguous operands."""
    return replace(
        source,
        models=tuple(model.slice(start, stop) for model in source.models),
        base=None if source.base is None else source.base.slice(start, stop),
        importances=tuple(importance.slice(start, stop) for importance in source.importances),
        offset=source.offset + start,
    )


def evaluated(device: torch.device, sources: Sequence[Source]) -> list[ImportanceSource]:
    """Sources whose fields have been evaluated into memory of their own; asynchronous.

    Args:
        device: where their addresses are.
        sources: contiguous.
    """
    found: list[ImportanceSource] = []
    segments = []
    for source in sources:
        if isinstance(source, FormulaSource):
            out = Buffer.from_torch(torch.empty(source.size, dtype=torch.float32, device=device))
            segments.append(EvaluateSegment(source, out, is_field=True))
            source = ImportanceSource("lp", out)
        found.append(source)
    launch_evaluate(device, segments)
    return found
