"""``sta_merge`` of all tensors of a model: one launch, a launch per tensor, eager PyTorch, a compiled network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import baselines, costs
from benchmarks.gpu.timing import copy
from benchmarks.harness import Contender, check_bits, check_mostly_equal, reference, windows
from benchmarks.operands import FORMATS
from sta_kernels import ops
from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.kernels.triton.sta_merge import MergeSegment, launch_sta_merge
from sta_kernels.kernels.triton.statistics import launch_ranges
from sta_kernels.methods.quantile import rank_of_quantile

P = 0.7
LARGEST_FOR_BASELINES = 400_000_000
"""Elements of a model up to which baselines, which make copies, are timed."""


@dataclass(frozen=True)
class Model:
    """A model's tensors, per tensor: base, tasks, importances, result."""

    bases: list[Tensor]
    finetuned: list[list[Tensor]]
    importances: list[list[Tensor]]
    outs: list[Tensor]

    @classmethod
    def random(cls, sizes: Sequence[int], formats: str, n_tasks: int, device: torch.device) -> Model:
        """Distributed as :func:`benchmarks.operands.operands` has it."""
        weight, importance = FORMATS[formats]
        generator = torch.Generator(device).manual_seed(n_tasks)
        model = cls([], [], [], [])
        for size in sizes:
            values = torch.empty(size, device=device)
            base = values.normal_(0.0, 0.02, generator=generator).clone()
            model.finetuned.append(
                [(base + values.normal_(0.0, 0.001, generator=generator)).to(weight) for _ in range(n_tasks)]
            )
            model.importances.append(
                [values.log_normal_(-8.0, 2.0, generator=generator).to(importance, copy=True) for _ in range(n_tasks)]
            )
            model.bases.append(base.to(weight))
            model.outs.append(torch.zeros_like(model.bases[-1]))
        return model

    def tables(self) -> Tensor:
        """The normaliser of each tensor: float32 [S, N, 2]."""
        return torch.stack([ops.normaliser(each) for each in self.importances])

    def n_bytes(self, *, normaliser_given: bool) -> int:
        """That a merge has to move."""
        parts = zip(self.bases, self.finetuned, self.importances, self.outs, strict=True)
        return sum(costs.sta_merge(*part, normaliser_given=normaliser_given) for part in parts)


def one_launch(model: Model, tables: Tensor | None) -> None:
    """All tensors in one launch; without a normaliser two, one of them for the ranges."""
    device, n_tasks = model.bases[0].device, len(model.finetuned[0])
    segments = [
        MergeSegment(
            Buffer.from_torch(base),
            tuple(map(Buffer.from_torch, finetuned)),
            tuple(map(Buffer.from_torch, importances)),
            Buffer.from_torch(out),
        )
        for base, finetuned, importances, out in zip(
            model.bases, model.finetuned, model.importances, model.outs, strict=True
        )
    ]
    if tables is None:
        sources = [ImportanceSource("lp", each) for segment in segments for each in segment.importances]
        lowest, highest = launch_ranges(device, sources).view(-1, n_tasks, 2).unbind(2)
        tables = torch.stack((lowest, highest - lowest), dim=2)
    launch_sta_merge(device, segments, k=rank_of_quantile(P, n_tasks), ties="drop", measure="lp", normaliser=tables)


def per_tensor(model: Model, tables: Tensor | None) -> None:
    """A call of the op for each tensor."""
    for i, (base, finetuned) in enumerate(zip(model.bases, model.finetuned, strict=True)):
        table = None if tables is None else tables[i]
        ops.sta_merge(base, finetuned, model.importances[i], p=P, normaliser=table, out=model.outs[i])


def check_reference(model: Model, tables: Tensor) -> None:
    """Hold the results of the first, the largest and the last tensor against the NumPy reference.

    Raises:
        AssertionError: a bit differs.
    """
    sizes = [base.numel() for base in model.bases]
    for i in {0, sizes.index(max(sizes)), len(sizes) - 1}:
        for window in windows(sizes[i]):
            operands = (model.bases[i], *model.finetuned[i], *model.importances[i])
            base, *others = (each[window].cpu() for each in operands)
            n_tasks = len(others) // 2
            with reference():
                expected = ops.sta_merge(base, others[:n_tasks], others[n_tasks:], p=P, normaliser=tables[i].cpu())
            check_bits(model.outs[i][window].cpu(), expected)


def contenders(
    model: Model, *, given: bool, compiled: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> list[Contender]:
    """Everything that merges this model, checked; the merge in one launch first.

    Args:
        model: on the device.
        given: whether the normaliser is; else each contender computes it.
        compiled: ``torch.compile`` for vectors of any length.

    Raises:
        AssertionError: a contender gives another result.
    """
    device, n_tasks = model.bases[0].device, len(model.finetuned[0])
    computed = model.tables()
    tables = computed if given else None
    n_bytes = model.n_bytes(normaliser_given=given)
    one_launch(model, tables)
    check_reference(model, computed)
    expected = [out.clone() for out in model.outs]
    found = [
        Contender("sta_merge", lambda: one_launch(model, tables), n_bytes),
        Contender("a launch per tensor", lambda: per_tensor(model, tables), n_bytes),
    ]
    if device.type == "cuda":
        found.append(Contender("graph", _graph(lambda: one_launch(model, tables)), n_bytes))
    if sum(base.numel() for base in model.bases) <= LARGEST_FOR_BASELINES:
        operands = list(zip(model.bases, model.finetuned, model.importances, strict=True))

        def eager() -> list[Tensor]:
            each = [None] * len(operands) if tables is None else list(tables)
            return [baselines.sta_merge_eager(*part, P, table) for part, table in zip(operands, each, strict=True)]

        for actual, wanted in zip(eager(), expected, strict=True):
            check_mostly_equal(actual, wanted)
        found.append(Contender("eager", eager, n_bytes))
        if given:
            network = compiled(baselines.sta_merge_network)

            def run() -> None:
                for i, part in enumerate(operands):
                    network(*part, computed[i], rank_of_quantile(P, n_tasks), model.outs[i])

            found.append(Contender("torch.compile", run, n_bytes))
    for each in found:
        if each.name != "eager":
            for out in model.outs:
                out.zero_()
            each.run()
            for actual, wanted in zip(model.outs, expected, strict=True):
                check_bits(actual, wanted)
    return [*found, copy(device, n_bytes)]


def _graph(run: Callable[[], None]) -> Callable[[], None]:
    """The same work, captured."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay
