"""Calls that wait to be launched together, and how many of them one launch takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from sta_kernels.kernels.triton.evaluate import EvaluateSegment
from sta_kernels.kernels.triton.packing import copied, copied_alike
from sta_kernels.kernels.triton.sta_forget import ForgetSegment
from sta_kernels.kernels.triton.sta_merge import MergeSegment
from sta_kernels.kernels.triton.weighted_sum import SumSegment

_Call = TypeVar("_Call")

COPIES = 32 << 20
"""Bytes of packed or converted operands that one launch of many calls may hold; a call that needs more goes alone."""


@dataclass(frozen=True)
class MergeCall:
    """One queued call of ``sta_merge``."""

    segment: MergeSegment
    normaliser: np.ndarray[Any, Any]
    weights: tuple[float, ...]
    counts: np.ndarray[Any, Any] | None


@dataclass(frozen=True)
class ForgetCall:
    """One queued call of ``sta_forget``."""

    segment: ForgetSegment
    threshold: float
    counts: np.ndarray[Any, Any] | None


def in_parts(calls: Sequence[_Call]) -> Iterator[list[_Call]]:
    """Calls in order, cut where the copies that they need together would exceed :data:`COPIES`."""
    part: list[_Call] = []
    held = 0
    for call in calls:
        needed = _copies(call)
        if part and needed and held + needed > COPIES:
            yield part
            part, held = [], 0
        part.append(call)
        held += needed
    if part:
        yield part


def _copies(call: Any) -> int:
    """Bytes of what a queued call's launch packs or converts."""
    if isinstance(call, MergeCall):
        segment = call.segment
        return copied(segment.base, segment.out) + copied_alike(segment.models) + copied_alike(segment.importances)
    if isinstance(call, ForgetCall):
        found = call.segment
        return copied(found.target, found.base, found.finetuned, found.importance, found.out)
    if isinstance(call, EvaluateSegment):
        return copied(*call.source.operands, call.out)
    return copied(call.base, *call.models, call.out) if isinstance(call, SumSegment) else copied(*call)
