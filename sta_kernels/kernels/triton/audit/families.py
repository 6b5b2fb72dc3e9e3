"""What each kernel is compiled with: the same compile-time arguments that its launch function would choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import triton

from sta_kernels.kernels.buffers import DType
from sta_kernels.kernels.triton import sta_merge
from sta_kernels.kernels.triton.config import LaunchConfig, elementwise_config

LARGE = 1 << 27
"""Elements of a model for whose launch kernels are configured: those of ViT-B/16 and above."""


@dataclass(frozen=True)
class Case:
    """One compilation.

    Attributes:
        op: the kernel family; a key of :data:`FAMILIES`.
        weights: dtype of models, base and result.
        importance: dtype of importances.
        n: number of tasks.
        variant: what else the family's kernel is specialised on, by name.
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
    """A kernel with all that its compilation depends on.

    Attributes:
        kernel: the jitted function.
        arguments: Triton types of its run-time arguments.
        constants: its compile-time arguments.
        config: how it would be launched.
        bytes_read: per element that must be read at the least (METHODS §15).
        bytes_written: likewise.
        fused: fused multiply-adds per element that its arithmetic is made of, and where: function names.
    """

    kernel: triton.JITFunction[Any]
    arguments: dict[str, str]
    constants: dict[str, Any]
    config: LaunchConfig
    bytes_read: int
    bytes_written: int
    fused: dict[str, int] = field(default_factory=dict)


def _sta_merge(case: Case) -> Binding:
    options = dict(case.variant)
    measure = options.get("measure", "lp")
    importances = () if measure == "amp" else (case.importance,) * case.n
    operands = (case.weights, *(case.weights,) * case.n, *importances)
    config = elementwise_config([dtype.itemsize for dtype in (case.weights, *operands)], LARGE)
    constants = sta_merge.merge_constants(
        case.n,
        case.weights,
        case.weights,
        case.importance,
        case.weights,
        k=1 + 7 * (case.n - 1) // 10,  # p = 0.7
        ties=options.get("ties", "drop"),
        measure=measure,
        weighted=options.get("weighted", False),
        counted=options.get("counted", False),
        aligned=True,
        config=config,
    )
    pointers = {"rows_ptr": "*i64", "chunks_ptr": "*i32", "normaliser_ptr": "*fp32", "weights_ptr": "*fp32"}
    return Binding(
        sta_merge._sta_merge_kernel,
        {**pointers, "counts_ptr": "*i64", "lambda_": "fp32"},
        constants,
        config,
        bytes_read=sum(dtype.itemsize for dtype in operands),
        bytes_written=case.weights.itemsize,
        fused={"normalise": 3 * case.n},
    )


FAMILIES: dict[str, Callable[[Case], Binding]] = {"sta_merge": _sta_merge}
"""Binds a case to its kernel."""

_F32, _BF16, _F16 = DType.F32, DType.BF16, DType.F16
_STORAGES = ((_F32, _F32), (_BF16, _F32), (_BF16, _BF16), (_F16, _F32), (_F16, _F16))

COVERING: tuple[Case, ...] = (
    Case("sta_merge", n=2, variant=(("counted", True),)),
    Case("sta_merge", n=6),
    Case("sta_merge", _BF16, _F32, n=6),
    Case("sta_merge", _BF16, _BF16, n=6),
    Case("sta_merge", _BF16, _BF16, n=8),
    Case("sta_merge", n=16),
    Case("sta_merge", _F16, _F16, n=4, variant=(("measure", "amp"),)),
    Case("sta_merge", _BF16, _F32, n=5, variant=(("measure", "lp_amp"), ("weighted", True))),
)
"""Every op, dtype and variant at least once: what `make test` compiles."""


def every_case() -> tuple[Case, ...]:
    """All that launches choose among, up to 16 tasks, of the kernels' fast paths."""
    cases = []
    for weights, importance in _STORAGES:
        for n in range(2, sta_merge.MOST_IN_REGISTERS + 1):
            cases.append(Case("sta_merge", weights, importance, n))
            for variant in ({"measure": "amp"}, {"measure": "lp_amp"}, {"weighted": True}, {"counted": True}):
                cases.append(Case("sta_merge", weights, importance, n, tuple(variant.items())))
    return tuple(dict.fromkeys((*COVERING, *cases)))
