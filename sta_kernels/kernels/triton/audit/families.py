"""Kinds of cases: each calls its family's launch function and takes what that would launch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from sta_kernels.kernels.buffers import Buffer, DType, ImportanceSource
from sta_kernels.kernels.triton import (
    count_equal,
    leaf_sums,
    order_statistic,
    rank_gate,
    sta_forget,
    sta_merge,
    statistics,
    taylor,
    weighted_sum,
)
from sta_kernels.kernels.triton.audit import formulas
from sta_kernels.kernels.triton.audit.record import Launched, record
from sta_kernels.kernels.triton.config import ACCESS, WARP
from sta_kernels.kernels.triton.leaves import LANES
from sta_kernels.kernels.triton.sta_merge_constants import takes_fours

LARGE = 1 << 27
"""Elements of the model that launches are configured for: more than ViT-B/16 has."""

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """One compilation.

    Attributes:
        op: the kernel; a key of :data:`FAMILIES`.
        weights: dtype of models, base and result.
        importance: dtype of importances, and of sums of gradients.
        n: number of tasks.
        variant: what else the launch is asked for, by name.
    """

    op: str
    weights: DType = DType.F32
    importance: DType = DType.F32
    n: int = 1
    variant: tuple[tuple[str, Any], ...] = ()

    @property
    def dtype(self) -> str:
        """Storage, as a table shows it: ``f32``, or ``bf16+f32`` where importances have another dtype."""
        names = dict.fromkeys((self.weights.name.lower(), self.importance.name.lower()))
        return "+".join(names)

    def __str__(self) -> str:
        extra = "".join(f" {name}={value}" for name, value in self.variant)
        return f"{self.op} {self.dtype} N={self.n}{extra}"


@dataclass(frozen=True)
class Binding:
    """A launch, and what its kernel is meant to do per element.

    Attributes:
        launched: the kernel with all its arguments.
        block: elements that a program works on at a time.
        step: what the loop's counter advances by for them.
        read: bytes per element that must be read at the least (METHODS §15).
        written: likewise.
        fused: fused multiply-adds per element of the arithmetic, by the function that may hold them.
        access: bytes of the narrowest access to an operand that is as meant.
    """

    launched: Launched
    block: int
    step: int
    read: int
    written: int
    fused: dict[str, int] = field(default_factory=dict)
    access: int = ACCESS


class _Memory:
    """Buffers at aligned addresses, one after the other, that nobody looks into."""

    def __init__(self) -> None:
        self._address = 1 << 40

    def __call__(self, dtype: DType) -> Buffer:
        self._address += LARGE * 8
        return Buffer(self._address, dtype, (LARGE,))


def _bind(
    launch: Callable[[], object], kernel: str, read: int, written: int = 0, fused: dict[str, int] | None = None
) -> Binding:
    (launched,) = (one for one in record(launch) if one.kernel.__name__ == kernel)
    constants = launched.constants
    if "BLOCK" in constants:
        block = step = constants["BLOCK"]
    else:  # tiles of some lanes of some leaves, several rows of lanes at a time
        at_once = constants["UNROLL"] if "UNROLL" in constants else constants["AT_ONCE"]
        block = constants["LEAVES"] * LANES.value * at_once
        step = at_once if "UNROLL" in constants else at_once * LANES.value
    return Binding(launched, block, step, read, written, fused or {})


def _sta_merge(case: Case) -> Binding:
    new, options = _Memory(), dict(case.variant)
    measure = options.get("measure", "lp")
    models = tuple(new(case.weights) for _ in range(case.n))
    importances = () if measure == "amp" else tuple(new(case.importance) for _ in range(case.n))
    segment = sta_merge.MergeSegment(new(case.weights), models, importances, new(case.weights))
    launch = functools.partial(
        sta_merge.launch_sta_merge,
        _CPU,
        [segment],
        k=options.get("k", 1 + 7 * (case.n - 1) // 10),  # p = 0.7
        ties=options.get("ties", "drop"),
        measure=measure,
        normaliser=torch.zeros(1, case.n, 2),
        weights=torch.zeros(1, case.n) if options.get("weighted") else None,
        counts=torch.zeros(1, case.n + 1, dtype=torch.int64) if options.get("counted") else None,
    )
    read = (case.n + 1) * case.weights.itemsize + len(importances) * case.importance.itemsize
    binding = _bind(launch, "_sta_merge_kernel", read, case.weights.itemsize, {"normalise": 3 * case.n})
    if not takes_fours((case.weights, case.importance), case.n, measure):
        return binding
    return replace(binding, access=ACCESS * case.weights.itemsize // DType.F32.itemsize)


def _sta_forget(case: Case) -> Binding:
    new, options = _Memory(), dict(case.variant)
    measure = options.get("measure", "lp")
    base = new(case.weights)
    target = new(case.weights) if options.get("merged") else base
    importance = None if measure == "amp" else new(case.importance)
    segment = sta_forget.ForgetSegment(target, base, new(case.weights), importance, new(case.weights))
    launch = functools.partial(
        sta_forget.launch_sta_forget,
        _CPU,
        [segment],
        thresholds=torch.zeros(1),
        measure=measure,
        weight=1.0,
        lambda_=1.0,
    )
    read = (3 if options.get("merged") else 2) * case.weights.itemsize
    read += 0 if importance is None else case.importance.itemsize
    return _bind(launch, "_sta_forget_kernel", read, case.weights.itemsize)


def _weighted_sum(case: Case) -> Binding:
    new, options = _Memory(), dict(case.variant)
    base = new(case.weights) if options.get("base", True) else None
    models = tuple(new(case.weights) for _ in range(case.n))
    launch = functools.partial(
        weighted_sum.launch_weighted_sum,
        _CPU,
        [weighted_sum.SumSegment(base, models, new(case.weights))],
        weights=[0.5] * case.n,
        divisor=options.get("divisor", 1.0),
        lambda_=0.4,
    )
    read = (case.n + (base is not None)) * case.weights.itemsize
    return _bind(launch, "_weighted_sum_kernel", read, case.weights.itemsize)


def _taylor_accumulate(case: Case) -> Binding:
    new = _Memory()
    launch = functools.partial(taylor.launch_taylor_accumulate, _CPU, [(new(case.importance), new(case.weights))])
    total = case.importance.itemsize
    return _bind(launch, "_accumulate_kernel", total + case.weights.itemsize, total)


def _taylor_finish(case: Case) -> Binding:
    new = _Memory()
    item = taylor.FinishItem(new(case.importance), new(case.weights), new(case.importance))
    measure = dict(case.variant).get("measure", "lp")
    launch = functools.partial(taylor.launch_taylor_finish, _CPU, [item], measure=measure)
    read = case.weights.itemsize + (0 if measure == "amp" else case.importance.itemsize)
    return _bind(launch, "_finish_kernel", read, case.importance.itemsize)


def _reduction(launch: Callable[..., object], kernel: str, *more: Any) -> Callable[[Case], Binding]:
    def bind(case: Case) -> Binding:
        new = _Memory()
        measure = dict(case.variant).get("measure", "lp")
        importance = None if measure == "amp" else new(case.importance)
        theta = None if measure == "lp" else new(case.weights)
        read = sum(buffer.dtype.itemsize for buffer in (importance, theta) if buffer is not None)
        source = ImportanceSource(measure, importance, theta)
        return _bind(functools.partial(launch, _CPU, [source], *more), kernel, read)

    return bind


def _first_nonfinite(case: Case) -> Binding:
    launch = functools.partial(statistics.launch_first_nonfinite, _CPU, [_Memory()(case.weights)])
    return _bind(launch, "_first_nonfinite_kernel", case.weights.itemsize)


def _histogram(case: Case) -> Binding:
    # Of several passes one is taken: they differ in a shift.
    source = ImportanceSource("lp", _Memory()(case.importance))
    launch = functools.partial(order_statistic.launch_histogram, _CPU, source, 0, 0, 11)
    return _bind(launch, "_histogram_kernel", case.importance.itemsize)


def _gates(case: Case) -> Binding:
    launch = functools.partial(
        rank_gate.launch_gates,
        _CPU,
        1 << 40,
        _Memory()(DType.F32),
        scaled=True,
        seed=1,
        tensor=2,
        task=3,
        offset=0,
    )
    return _bind(launch, "_gates_kernel", 8, 4)


def _evaluate(case: Case) -> Binding:
    options = dict(case.variant)
    launched, read = formulas.launched(
        _Memory(), options["formula"], options.get("form", ()), case.n, case.weights, case.importance
    )
    block = launched.constants["BLOCK"]
    per_thread = block // (launched.options["num_warps"] * WARP)
    access = min(ACCESS, per_thread * min(case.weights.itemsize, case.importance.itemsize))
    return Binding(launched, block, block, read, case.weights.itemsize, access=access)


FAMILIES: dict[str, Callable[[Case], Binding]] = {
    "sta_merge": _sta_merge,
    "sta_forget": _sta_forget,
    "weighted_sum": _weighted_sum,
    "evaluate": _evaluate,
    "gates": _gates,
    "taylor_accumulate": _taylor_accumulate,
    "taylor_finish": _taylor_finish,
    "ranges": _reduction(statistics.launch_ranges, "_ranges_kernel"),
    "leaf_sums": _reduction(leaf_sums.launch_leaf_sums, "_leaf_sums_kernel"),
    "ranges_leaf_sums": _reduction(leaf_sums.launch_ranges_and_leaf_sums, "_leaf_sums_kernel"),
    "count_equal": _reduction(count_equal.launch_count_equal, "_count_equal_kernel", [0.5]),
    "first_nonfinite": _first_nonfinite,
    "histogram": _histogram,
}
"""Binds a case to the launch that it leads to."""
