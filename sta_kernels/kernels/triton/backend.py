"""Triton's kernels as a backend: the protocol's calls on buffers of one device, queued into few launches on demand."""

from __future__ import annotations

import ctypes
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from sta_kernels.kernels.backend import ROW_BYTES, check_rows
from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.kernels.formula import FormulaSource
from sta_kernels.kernels.triton import tables
from sta_kernels.kernels.triton.calls import COPIES, ForgetCall, MergeCall, in_parts
from sta_kernels.kernels.triton.evaluate import EvaluateSegment, launch_evaluate
from sta_kernels.kernels.triton.leaf_sums import launch_fold
from sta_kernels.kernels.triton.packing import Packed
from sta_kernels.kernels.triton.rank_gate import launch_gates, launch_thresholds
from sta_kernels.kernels.triton.reductions import Reductions, fold_range
from sta_kernels.kernels.triton.sta_forget import ForgetSegment, launch_sta_forget
from sta_kernels.kernels.triton.sta_merge import MergeSegment, launch_sta_merge
from sta_kernels.kernels.triton.taylor import FinishItem, launch_taylor_accumulate, launch_taylor_finish
from sta_kernels.kernels.triton.weighted_sum import SumSegment, launch_weighted_sum


class TritonBackend(Reductions):
    """Every kernel on one GPU, or on main memory in Triton's interpreter.

    Kernels run on the device's current stream, and a call returns before they have ended unless it returns a value.
    Operands with strides are packed, and operands of one role whose dtypes differ become float32, which is what the
    kernels would read.

    Args:
        device: "cuda", "cuda:1", or "cpu" in the interpreter.
    """

    name = "triton"
    batched = True

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self._queues = threading.local()

    @contextmanager
    def grouped(self) -> Iterator[None]:
        """Hold back calls that write tensors until the end, and launch those alike together.

        Operands must stay as they are until then, and outputs and counters are written then. Calls whose operands
        have to be packed or converted are launched in parts, so that the copies of one launch stay within bounds.
        """
        if getattr(self._queues, "queue", None) is not None:
            raise RuntimeError("grouped() is not to be nested")
        queue: dict[Any, list[Any]] = defaultdict(list)
        self._queues.queue = queue
        try:
            yield
        finally:
            self._queues.queue = None
        for (launch, *key), calls in queue.items():
            with self.launching():
                for part in in_parts(calls):
                    launch(*key, part)

    def sta_merge(
        self,
        base: Buffer,
        finetuned: Sequence[Buffer],
        importances: Sequence[Buffer] | None,
        *,
        measure: str,
        normaliser_address: int,
        k: int,
        ties: str,
        weights: Sequence[float] | None,
        lambda_: float,
        out: Buffer,
        counts_address: int,
        threads: int,
    ) -> None:
        """Normalise, select among the N tasks, accumulate: see :meth:`Backend.sta_merge`."""
        n_tasks = len(finetuned)
        call = MergeCall(
            MergeSegment(base, tuple(finetuned), tuple(importances or ()), out),
            _array_at(normaliser_address, ctypes.c_float, n_tasks, 2).copy(),
            (1.0,) * n_tasks if weights is None else tuple(weights),
            _array_at(counts_address, ctypes.c_int64, n_tasks + 1) if counts_address else None,
        )
        self._submit(call, self._merge, n_tasks, k, ties, measure, lambda_, weights is None, counts_address != 0)

    def weighted_sum(
        self,
        base: Buffer | None,
        models: Sequence[Buffer],
        *,
        weights: Sequence[float],
        divisor: float,
        lambda_: float,
        out: Buffer,
        threads: int,
    ) -> None:
        """``[θ0 +] λ·((Σ w_i·(θ_i [− θ0]))/divisor)``: see :meth:`Backend.weighted_sum`."""
        self._submit(SumSegment(base, tuple(models), out), self._sum, tuple(weights), divisor, lambda_)

    def evaluate(self, source: FormulaSource, *, out: Buffer, threads: int) -> None:
        """A formula's values, or the base with its δ: see :meth:`Backend.evaluate`."""
        self._submit(EvaluateSegment(source, out), self._evaluate)

    def rank_gate(
        self,
        base: Buffer,
        model: Buffer,
        *,
        row: int,
        chances: tuple[int, int],
        scaled: bool,
        seed: int,
        tensor: int,
        task: int,
        offset: int,
        out: Buffer,
        threads: int,
    ) -> None:
        """Chances by the ranks within rows: see :meth:`Backend.rank_gate`."""
        check_rows(base.size, row, chances)
        step = max(1, COPIES // (ROW_BYTES * row)) * row
        with self.launching(), Packed() as packed:
            origin, theta, result = packed.buffer(base), packed.buffer(model), packed.result(out)
            for start in range(0, base.size, step):
                stop = min(start + step, base.size)
                thresholds = launch_thresholds(
                    self.device, origin.slice(start, stop), theta.slice(start, stop), row=row, chances=chances
                )
                launch_gates(
                    self.device,
                    thresholds.data_ptr(),
                    result.slice(start, stop),
                    scaled=scaled,
                    seed=seed,
                    tensor=tensor,
                    task=task,
                    offset=offset + start,
                )

    def sta_forget(
        self,
        target: Buffer,
        base: Buffer,
        finetuned: Buffer,
        source: ImportanceSource,
        *,
        threshold: float,
        weight: float,
        lambda_: float,
        out: Buffer,
        counts_address: int,
        threads: int,
    ) -> None:
        """``target − λ·(w·τ)`` above the threshold: see :meth:`Backend.sta_forget`."""
        call = ForgetCall(
            ForgetSegment(target, base, finetuned, source.importance, out),
            threshold,
            _array_at(counts_address, ctypes.c_int64, 1) if counts_address else None,
        )
        self._submit(call, self._forget, source.measure, weight, lambda_, counts_address != 0)

    def taylor_accumulate(self, total: Buffer, grad: Buffer, *, threads: int) -> None:
        """``total += |grad|`` in place: see :meth:`Backend.taylor_accumulate`."""
        self._submit((total, grad), self._accumulate)

    def taylor_finish(
        self,
        total: Buffer,
        param: Buffer,
        *,
        measure: str,
        out: Buffer,
        minmax: np.ndarray[Any, Any],
        leaves: np.ndarray[Any, Any],
        threads: int,
    ) -> None:
        """Importance from accumulated gradients, its range and leaf sums: see :meth:`Backend.taylor_finish`."""
        with self.launching():
            found, sums = self._finish(measure, [(total, param, out)])
        fold_range(found[0].cpu().numpy(), minmax)
        leaves[:] = sums[0].cpu().numpy()

    def taylor_finish_many(
        self, items: Sequence[tuple[Buffer, Buffer, Buffer]], *, measure: str, threads: int
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Importances of many parameters in few launches and one wait: see :meth:`Backend.taylor_finish_many`."""
        found, leaves = [], []
        with self.launching():
            for part in in_parts(items):
                ranges, sums = self._finish(measure, part)
                found.append(ranges)
                leaves += sums
            if not leaves:
                return np.empty((0, 2), np.float32), np.empty(0)
            sums_there = launch_fold(self.device, leaves)
            # float32 in float64 keeps its value: all of it comes back in one transfer.
            results = torch.cat([torch.cat(found).double(), sums_there[:, None]], dim=1).cpu().numpy()
        return results[:, :2].astype(np.float32), results[:, 2]

    def _submit(self, call: Any, launch: Callable[..., None], *key: Any) -> None:
        queue = getattr(self._queues, "queue", None)
        if queue is None:
            with self.launching():
                launch(*key, [call])
        else:
            alike = (launch, *key)
            queue[alike].append(call)

    def _merge(
        self,
        n_tasks: int,
        k: int,
        ties: str,
        measure: str,
        lambda_: float,
        unweighted: bool,
        counted: bool,
        calls: list[MergeCall],
    ) -> None:
        with Packed() as packed:
            segments = [
                replace(
                    call.segment,
                    base=packed.buffer(call.segment.base),
                    models=packed.alike(call.segment.models),
                    importances=packed.alike(call.segment.importances),
                    out=packed.result(call.segment.out),
                )
                for call in calls
            ]
            normaliser, weights = tables.upload(
                self.device,
                np.stack([call.normaliser for call in calls]),
                np.array([call.weights for call in calls], np.float32),
            )
            counts = torch.zeros((len(calls), n_tasks + 1), dtype=torch.int64, device=self.device) if counted else None
            launch_sta_merge(
                self.device,
                segments,
                k=k,
                ties=ties,
                measure=measure,
                normaliser=normaliser,
                weights=None if unweighted else weights,
                lambda_=lambda_,
                counts=counts,
            )
        if counts is not None:
            _add_counts(calls, counts)

    def _forget(self, measure: str, weight: float, lambda_: float, counted: bool, calls: list[ForgetCall]) -> None:
        with Packed() as packed:
            segments = [
                ForgetSegment(
                    packed.buffer(call.segment.target),
                    packed.buffer(call.segment.base),
                    packed.buffer(call.segment.finetuned),
                    None if call.segment.importance is None else packed.buffer(call.segment.importance),
                    packed.result(call.segment.out),
                )
                for call in calls
            ]
            (thresholds,) = tables.upload(self.device, np.array([call.threshold for call in calls], np.float32))
            counts = torch.zeros((len(calls), 1), dtype=torch.int64, device=self.device) if counted else None
            launch_sta_forget(
                self.device,
                segments,
                thresholds=thresholds,
                measure=measure,
                weight=weight,
                lambda_=lambda_,
                counts=counts,
            )
        if counts is not None:
            _add_counts(calls, counts)

    def _sum(self, weights: tuple[float, ...], divisor: float, lambda_: float, calls: list[SumSegment]) -> None:
        with Packed() as packed:
            segments = [
                SumSegment(
                    None if call.base is None else packed.buffer(call.base),
                    tuple(map(packed.buffer, call.models)),
                    packed.result(call.out),
                )
                for call in calls
            ]
            launch_weighted_sum(self.device, segments, weights=weights, divisor=divisor, lambda_=lambda_)

    def _evaluate(self, calls: list[EvaluateSegment]) -> None:
        with Packed() as packed:
            segments = [EvaluateSegment(packed.source(call.source), packed.result(call.out)) for call in calls]
            launch_evaluate(self.device, segments)

    def _finish(
        self, measure: str, items: Sequence[tuple[Buffer, Buffer, Buffer]]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        with Packed() as packed:
            dense = [
                FinishItem(packed.buffer(total), packed.buffer(param), packed.result(out))
                for total, param, out in items
            ]
            return launch_taylor_finish(self.device, dense, measure=measure)

    def _accumulate(self, calls: list[tuple[Buffer, Buffer]]) -> None:
        with Packed() as packed:
            launch_taylor_accumulate(
                self.device, [(packed.updated(total), packed.buffer(grad)) for total, grad in calls]
            )


def _add_counts(calls: Sequence[MergeCall | ForgetCall], counts: torch.Tensor) -> None:
    """Add what was counted to each caller's counters."""
    for call, found in zip(calls, counts.cpu().numpy(), strict=True):
        assert call.counts is not None
        np.add(call.counts, found, out=call.counts)


def _array_at(address: int, element: type[ctypes.c_float | ctypes.c_int64], *shape: int) -> np.ndarray[Any, Any]:
    """View a small C-contiguous host array by its address."""
    return np.ctypeslib.as_array((element * math.prod(shape)).from_address(address)).reshape(shape)
