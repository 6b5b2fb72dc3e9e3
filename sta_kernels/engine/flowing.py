"""Which jobs flow through the native core slice by slice, which are held in memory, and what they read."""

from __future__ import annotations

from collections.abc import Sequence

from sta_kernels.engine.inputs import Inputs
from sta_kernels.engine.jobs import Job
from sta_kernels.engine.memory import Budget
from sta_kernels.methods.base import Method
from sta_kernels.methods.statistics import OrderStatistic, Statistic

MOST_AT_ONCE = 4 << 20
"""Bytes of a segment that is held as a whole although it could flow: a larger one is read again for its merge, from the
page cache as a rule, and in slices that fit a core's own cache."""


def flows(job: Job, method: Method, inputs: Inputs) -> bool:
    """Whether a job's tiles need not be in memory as a whole: elementwise, from plain files."""
    if job.action not in ("merge", "copy", "convert") or job.masks or job.whole(method):
        return False
    return all(
        operand.shape is None and inputs.checkpoints[operand.input].flat(operand.name) is not None
        for operand in job.distinct
    )


def read_whole(job: Job, method: Method, budget: Budget, *, flowing: bool) -> bool:
    """Whether a job's segment is held as a whole, so that its statistics cost no further read."""
    if job.whole(method):
        return True
    most = min(budget.whole, MOST_AT_ONCE) if flowing else budget.whole
    return job.memory(job.size) <= most and job.streamed(method)


def passes_of(statistic: Statistic, *, flowing: bool) -> int:
    """Reads that a statistic takes: of what flows, an order statistic is bracketed by a sample as a rule."""
    return 1 if flowing and isinstance(statistic, OrderStatistic) else statistic.passes


def statistics_bytes(job: Job, method: Method, scopes: Sequence[str], flowing: bool) -> int:
    """Bytes that statistics of some scopes read of a segment: pass by pass, each operand once."""
    total = 0
    for round_ in job.rounds(method):
        unknown = [statistic for statistic, known in round_ if known is None and statistic.scope in scopes]
        passes = {statistic: passes_of(statistic, flowing=flowing) for statistic in unknown}
        for done in range(max(passes.values(), default=0)):
            pending = [statistic for statistic, number in passes.items() if number > done]
            total += job.size * sum(map(job.unit, job.reduced_by(pending)))
    return total
