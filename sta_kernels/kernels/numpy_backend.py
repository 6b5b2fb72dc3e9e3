"""The reference as a backend: NumPy over buffers, some elements at a time, in one thread.

It serves where nothing faster is built, and every other backend is tested against it, bit for bit.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from sta_kernels.kernels.backend import LEAF, check_rows, finish_one_by_one
from sta_kernels.kernels.buffers import Buffer, DType, ImportanceSource
from sta_kernels.kernels.formula import FormulaSource, Source
from sta_kernels.kernels.numpy_operand import Operand, parts_of
from sta_kernels.kernels.reference import importance, linear, order, rank_gate, sta_forget, sta_merge, statistics
from sta_kernels.kernels.reference.dtypes import Array
from sta_kernels.kernels.reference.environment import ieee_arithmetic
from sta_kernels.kernels.reference.formulas import DELTAS, FORMULAS, Arguments
from sta_kernels.kernels.reference.philox import draws_exact


class NumpyBackend:
    """Every kernel by the exact float32 functions of :mod:`sta_kernels.kernels.reference`.

    An output may be one of the inputs, element for element. ``threads`` is an upper bound and one is used.
    """

    name = "reference"
    batched = False

    def grouped(self) -> AbstractContextManager[None]:
        """Nothing to gain: see :meth:`Backend.grouped`."""
        return nullcontext()

    @ieee_arithmetic()
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
        shift, divisor = _array_at(normaliser_address, ctypes.c_float, n_tasks, 2).T
        counts = _array_at(counts_address, ctypes.c_int64, n_tasks + 1) if counts_address else None
        source, result = Operand(base), Operand(out)
        models = [Operand(model) for model in finetuned]
        stored = [Operand(buffer) for buffer in importances or ()]
        for part in parts_of(base.size, 2 * n_tasks):
            theta = np.stack([model.read(part) for model in models])  # [N, part]
            lp = np.stack([buffer.read(part) for buffer in stored]) if stored else None
            values = importance.measure_exact(measure, lp, theta)
            mask = sta_merge.mask_exact(sta_merge.normalise_exact(values, shift, divisor), k, ties)
            merged = sta_merge.merge_exact(source.read(part), theta, mask, weights, lambda_)
            routed = np.logical_or.reduce(mask, axis=0)
            if counts is not None:
                counts[:n_tasks] += np.count_nonzero(mask, axis=1)
                counts[n_tasks] += routed.size - np.count_nonzero(routed)
            result.write_merged(part, merged, source, routed)

    @ieee_arithmetic()
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
        source = None if base is None else Operand(base)
        operands = [Operand(model) for model in models]
        result = Operand(out)
        for part in parts_of(out.size, 2):
            start = None if source is None else source.read(part)
            terms = (operand.read(part) for operand in operands)
            result.write(part, linear.weighted_sum_exact(start, terms, weights, divisor, lambda_))

    @ieee_arithmetic()
    def ranges(
        self,
        sources: Sequence[Source],
        minmax: np.ndarray[Any, Any] | None,
        leaves: Sequence[np.ndarray[Any, Any]] | None,
        *,
        threads: int,
    ) -> None:
        """Fold ranges into ``minmax`` and set ``leaves``: see :meth:`Backend.ranges`."""
        for i, source in enumerate(sources):
            read = _reader(source)
            for part in read.parts:
                values = read(part)
                if minmax is not None:
                    minmax[i] = statistics.range_exact(values, *minmax[i])
                if leaves is not None:
                    _set_leaves(leaves[i], part, values)

    @ieee_arithmetic()
    def fold(self, leaves: np.ndarray[Any, Any]) -> float:
        """Tier-B sum of leaf sums: see :meth:`Backend.fold`."""
        return statistics.fold_exact(leaves)

    @ieee_arithmetic()
    def histogram(
        self,
        source: Source,
        *,
        prefix: int,
        prefix_bits: int,
        digit_bits: int,
        counts: np.ndarray[Any, Any],
        threads: int,
    ) -> None:
        """Add to ``counts`` the next digit after ``prefix``: see :meth:`Backend.histogram`."""
        read = _reader(source)
        for part in read.parts:
            counts += order.digit_counts_exact(order.keys_exact(read(part)), prefix, prefix_bits, digit_bits)

    @ieee_arithmetic()
    def order_statistic(self, source: Source, k: int, *, threads: int) -> float:
        """Exact k-th smallest float32 importance: see :meth:`Backend.order_statistic`."""
        _check_rank(k, source.size)
        read = _reader(source)

        def keys() -> Iterator[Array]:
            return (order.keys_exact(read(part)) for part in read.parts)

        return order.value_of_key_exact(order.select_key_exact(keys, 32, k))

    def order_statistics(self, sources: Sequence[Source], ks: Sequence[int], *, threads: int) -> list[float]:
        """One by one: see :meth:`Backend.order_statistics`."""
        return [self.order_statistic(source, k, threads=threads) for source, k in zip(sources, ks, strict=True)]

    @ieee_arithmetic()
    def order_statistic_exact(self, x: Buffer, k: int, *, threads: int) -> float:
        """Exact k-th smallest in the buffer's own dtype: see :meth:`Backend.order_statistic_exact`."""
        if x.dtype is not DType.F64:
            return self.order_statistic(ImportanceSource("lp", x), k, threads=threads)
        _check_rank(k, x.size)
        operand = Operand(x)

        def keys() -> Iterator[Array]:
            return (order.keys_exact(operand.stored(part)) for part in parts_of(x.size, 1))

        return order.value_of_key_exact(order.select_key_exact(keys, 64, k), np.float64)

    @ieee_arithmetic()
    def count_equal(self, source: Source, value: float, *, counts: np.ndarray[Any, Any], threads: int) -> int:
        """Count what is greater than a value, and what equals it leaf by leaf: see :meth:`Backend.count_equal`."""
        read, greater = _reader(source), 0
        for part in read.parts:
            values = read(part)
            greater += np.count_nonzero(values > np.float32(value))
            equal = np.flatnonzero(values == np.float32(value)) // LEAF
            first, last = part.start // LEAF, -(-part.stop // LEAF)
            counts[first:last] = np.bincount(equal, minlength=last - first)
        return int(greater)

    @ieee_arithmetic()
    def values(self, source: Source, start: int, stop: int) -> np.ndarray[Any, Any]:
        """A few elements: see :meth:`Backend.values`."""
        return _reader(source)(slice(start, stop))

    @ieee_arithmetic()
    def evaluate(self, source: FormulaSource, *, out: Buffer, threads: int) -> None:
        """A formula's values, or the base with its δ: see :meth:`Backend.evaluate`."""
        read, result = _Formula(source), Operand(out)
        own = None if source.base is None else Operand(source.base)
        for part in read.parts:
            values = read(part)
            if own is not None and source.formula.name in DELTAS:
                start = own.read(part)
                result.write_merged(part, np.where(values == 0, start, start + values), own, values != 0)
            else:
                result.write(part, values)

    @ieee_arithmetic()
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
        origin, theta, result = (Operand(buffer) for buffer in (base, model, out))
        for rows in parts_of(base.size, 2, row):
            ranks = rank_gate.ranks_exact((theta.read(rows) - origin.read(rows)).reshape(-1, row)).reshape(-1)
            for part in parts_of(ranks.size, 8):
                thresholds = rank_gate.thresholds_exact(ranks[part], row, chances)
                index = np.arange(part.start, part.stop) + (offset + rows.start)
                draws = draws_exact(seed, tensor, task, index)
                written = slice(rows.start + part.start, rows.start + part.stop)
                result.write(written, rank_gate.gate_exact(thresholds, draws, scaled))

    @ieee_arithmetic()
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
        counts = _array_at(counts_address, ctypes.c_int64, 1) if counts_address else None
        own, origin, model, result = (Operand(buffer) for buffer in (target, base, finetuned, out))
        read = _Importance(source)
        for part in parts_of(target.size, 4):
            mask = sta_forget.forget_mask_exact(read(part), threshold)
            values = sta_forget.forget_exact(own.read(part), origin.read(part), model.read(part), mask, weight, lambda_)
            if counts is not None:
                counts += np.count_nonzero(mask)
            result.write_merged(part, values, own, mask)

    @ieee_arithmetic()
    def taylor_accumulate(self, total: Buffer, grad: Buffer, *, threads: int) -> None:
        """``total += |grad|`` in place: see :meth:`Backend.taylor_accumulate`."""
        sums, gradient = Operand(total), Operand(grad)
        for part in parts_of(total.size, 2):
            sums.write(part, importance.accumulate_exact(sums.read(part), gradient.read(part)))

    @ieee_arithmetic()
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
        sums, weights, result = (Operand(buffer) for buffer in (total, param, out))
        for part in parts_of(total.size, 2):
            theta = weights.read(part)
            lp = importance.lp_exact(theta, sums.read(part))
            result.write(part, importance.measure_exact(measure, lp, theta))
            written = result.read(part)
            minmax[:] = statistics.range_exact(written, *minmax)
            _set_leaves(leaves, part, written)

    def taylor_finish_many(
        self, items: Sequence[tuple[Buffer, Buffer, Buffer]], *, measure: str, threads: int
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """One by one: see :meth:`Backend.taylor_finish_many`."""
        return finish_one_by_one(self, items, measure, threads)

    @ieee_arithmetic()
    def first_nonfinite(self, buffers: Sequence[Buffer], *, threads: int = 1) -> tuple[int, int] | None:
        """First NaN or infinity, buffer by buffer, of the float32 values: see :meth:`Backend.first_nonfinite`."""
        for i, buffer in enumerate(buffers):
            operand = Operand(buffer)
            for part in parts_of(buffer.size, 1):
                bad = np.flatnonzero(~np.isfinite(operand.read(part)))
                if bad.size:
                    return i, part.start + int(bad[0])
        return None


class _Importance:
    """Reads a task's importance as float32, by parts, in whichever measure."""

    def __init__(self, source: ImportanceSource) -> None:
        self._measure = source.measure
        self._size = source.size
        self._lp = None if source.importance is None else Operand(source.importance)
        self._theta = None if source.theta is None else Operand(source.theta)

    @property
    def parts(self) -> Iterator[slice]:
        return parts_of(self._size, 1)

    def __call__(self, part: slice) -> Array:
        lp = None if self._lp is None else self._lp.read(part)
        theta = None if self._theta is None else self._theta.read(part)
        return importance.measure_exact(self._measure, lp, theta)


class _Formula:
    """Evaluates a formula, by parts."""

    def __init__(self, source: FormulaSource) -> None:
        self._source = source
        self._value = FORMULAS[source.formula.name]
        self._base = None if source.base is None else Operand(source.base)
        self._models = [Operand(model) for model in source.models]
        self._importances = [Operand(importance) for importance in source.importances]

    @property
    def parts(self) -> Iterator[slice]:
        return parts_of(self._source.size, 3 * len(self._source.operands))

    def __call__(self, part: slice) -> Array:
        formula, models = self._source.formula, np.stack([model.read(part) for model in self._models])
        stored = [importance.read(part) for importance in self._importances]
        given = Arguments(
            base=np.zeros_like(models[0]) if self._base is None else self._base.read(part),
            models=models,
            importances=np.stack(stored) if stored else models[:0],
            index=np.arange(part.start, part.stop) + self._source.offset,
            variant=formula.variant,
            shared=np.array(formula.shared, np.float32),
            per_model=np.array(formula.per_model, np.float32),
            integers=formula.integers,
        )
        return self._value(given)


def _reader(source: Source) -> _Importance | _Formula:
    return _Formula(source) if isinstance(source, FormulaSource) else _Importance(source)


def _array_at(address: int, element: type[ctypes.c_float | ctypes.c_int64], *shape: int) -> Array:
    """View a small C-contiguous array by its address."""
    return np.ctypeslib.as_array((element * math.prod(shape)).from_address(address)).reshape(shape)


def _set_leaves(leaves: Array, part: slice, values: Array) -> None:
    sums = statistics.leaf_sums_exact(values)
    first = part.start // LEAF
    leaves[first : first + len(sums)] = sums


def _check_rank(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k = {k}: expected 1 to {n}, the number of elements")
