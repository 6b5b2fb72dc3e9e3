"""The native backend: ctypes over the C ABI of ``bindings/include/sta_core.h``."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from typing import Any

import numpy as np

from sta_kernels.kernels.backend import TIES, check_rows, finish_one_by_one
from sta_kernels.kernels.buffers import MEASURES, Buffer, ImportanceSource
from sta_kernels.kernels.formula import FormulaSource, Source
from sta_kernels.kernels.native_calls import (
    ISAS,
    Formulas,
    Sources,
    Table,
    address_of,
    available_isas,
    build_info,
    check_number,
    check_status,
    load_core,
)
from sta_kernels.kernels.reference.environment import ieee_arithmetic

__all__ = ["NativeBackend", "available_isas", "build_info", "load_core"]

_WORD = (1 << 64) - 1


class NativeBackend:
    """Kernels in C++; the instruction set is chosen at run time.

    Args:
        isa: one of :func:`available_isas`; None takes the best.
        tile: elements per kernel step; None lets the core choose.
        streaming_bytes: outputs of at least that size are written past the caches; None lets the core choose.

    The bits depend on none of them.
    """

    name = "native"
    batched = False

    def __init__(self, isa: str | None = None, tile: int | None = None, streaming_bytes: int | None = None) -> None:
        self._core = load_core()
        self._isa = -1 if isa is None else ISAS.index(isa)
        self._tile = tile or 0
        self._streaming_bytes = streaming_bytes or 0

    def grouped(self) -> AbstractContextManager[None]:
        """Nothing to gain: see :meth:`Backend.grouped`."""
        return nullcontext()

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
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        check_number(finetuned)
        table = Table((base, *finetuned, *(importances or ()), out))
        n_tasks = len(finetuned)
        factors = None if weights is None else array("f", weights)
        self._call(
            "sta_merge", threads,
            out.size, n_tasks, table[0], table[1], table[1 + n_tasks] if importances else None,
            MEASURES.index(measure), normaliser_address, k, TIES.index(ties),
            None if factors is None else factors.buffer_info()[0], lambda_, table.last, counts_address or None,
            keep=(table, factors),
        )  # fmt: skip

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
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        check_number(models)
        table = Table((*models, base or out, out))
        factors = array("f", weights)
        n_models = len(models)
        self._call(
            "sta_weighted_sum", threads,
            out.size, n_models, None if base is None else table[n_models], table[0],
            factors.buffer_info()[0], divisor, lambda_, table.last,
            keep=(table, factors),
        )  # fmt: skip

    def ranges(
        self,
        sources: Sequence[Source],
        minmax: np.ndarray[Any, Any] | None,
        leaves: Sequence[np.ndarray[Any, Any]] | None,
        *,
        threads: int,
    ) -> None:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        if not sources:
            return
        formulas = [i for i, source in enumerate(sources) if isinstance(source, FormulaSource)]
        if 0 < len(formulas) < len(sources):  # a call takes one sort
            for sort in (formulas, [i for i in range(len(sources)) if i not in formulas]):
                rows = None if minmax is None else minmax[sort]
                self.ranges([sources[i] for i in sort], rows, leaves and [leaves[i] for i in sort], threads=threads)
                if minmax is not None:
                    minmax[sort] = rows
            return
        given = Sources(sources)
        sizes = array("q", [source.size for source in sources])
        starts = None if leaves is None else array("q", map(address_of, leaves))
        assert leaves is None or all(sums.dtype == np.float64 and sums.flags.c_contiguous for sums in leaves)
        self._call(
            "sta_ranges", threads,
            len(sources), sizes.buffer_info()[0], *given.arguments,
            None if minmax is None else address_of(minmax), None if starts is None else starts.buffer_info()[0],
            keep=(given, sizes, minmax, leaves, starts),
        )  # fmt: skip

    def fold(self, leaves: np.ndarray[Any, Any]) -> float:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        scratch = np.array(leaves, np.float64)
        return self._core.sta_fold(address_of(scratch), scratch.size)

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
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        given = Sources([source])
        self._call(
            "sta_histogram", threads,
            source.size, *given.arguments, prefix, prefix_bits, digit_bits, address_of(counts),
            keep=(given, counts),
        )  # fmt: skip

    def order_statistic(self, source: Source, k: int, *, threads: int) -> float:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        return self._select(source, k, 0, threads)

    def order_statistics(self, sources: Sequence[Source], ks: Sequence[int], *, threads: int) -> list[float]:
        """One by one: see :meth:`Backend.order_statistics`."""
        return [self.order_statistic(source, k, threads=threads) for source, k in zip(sources, ks, strict=True)]

    def order_statistic_exact(self, x: Buffer, k: int, *, threads: int) -> float:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        return self._select(ImportanceSource("lp", x), k, 1, threads)

    @ieee_arithmetic()  # the result may be subnormal, and so may the threshold below: both are converted in this thread
    def _select(self, source: Source, k: int, exact: int, threads: int) -> float:
        given = Sources([source])
        result = ctypes.c_double()
        self._call(
            "sta_order_statistic", threads,
            source.size, *given.arguments, k, exact, ctypes.addressof(result),
        )  # fmt: skip
        return result.value

    @ieee_arithmetic()
    def count_equal(self, source: Source, value: float, *, counts: np.ndarray[Any, Any], threads: int) -> int:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        given, greater = Sources([source]), ctypes.c_int64()
        self._call(
            "sta_count_equal", threads,
            source.size, *given.arguments, value, address_of(counts), ctypes.addressof(greater),
        )  # fmt: skip
        return greater.value

    @ieee_arithmetic()
    def values(self, source: Source, start: int, stop: int) -> np.ndarray[Any, Any]:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        given, result = Sources([source]), np.empty(stop - start, np.float32)
        self._call("sta_values", 1, source.size, *given.arguments, start, stop, address_of(result))
        return result

    @ieee_arithmetic()
    def evaluate(self, source: FormulaSource, *, out: Buffer, threads: int) -> None:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        formula, result = Formulas([source]), Table([out])
        self._call("sta_evaluate", threads, out.size, formula.address, result[0], keep=(formula, result))

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
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        check_rows(out.size, row, chances)
        table = Table((base, model, out))
        self._call(
            "sta_rank_gate", threads,
            out.size, row, table[0], table[1], *chances, scaled, seed & _WORD, tensor, task, offset, table.last,
        )  # fmt: skip

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
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        table = Table((target, base, finetuned, source.importance or finetuned, out))
        self._call(
            "sta_forget", threads,
            out.size, table[0], table[1], table[2], None if source.importance is None else table[3],
            MEASURES.index(source.measure), threshold, weight, lambda_, table.last, counts_address or None,
            keep=table,
        )  # fmt: skip

    def taylor_accumulate(self, total: Buffer, grad: Buffer, *, threads: int) -> None:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        table = Table((total, grad))
        self._call("sta_taylor_accumulate", threads, total.size, table[0], table[1])

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
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        table = Table((total, param, out))
        self._call(
            "sta_taylor_finish", threads,
            out.size, table[0], table[1], MEASURES.index(measure), table.last, address_of(minmax), address_of(leaves),
        )  # fmt: skip

    def taylor_finish_many(
        self, items: Sequence[tuple[Buffer, Buffer, Buffer]], *, measure: str, threads: int
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """One by one: see :meth:`Backend.taylor_finish_many`."""
        return finish_one_by_one(self, items, measure, threads)

    def first_nonfinite(self, buffers: Sequence[Buffer], *, threads: int = 1) -> tuple[int, int] | None:
        """See :class:`sta_kernels.kernels.backend.Backend`."""
        found = (ctypes.c_int64 * 2)()
        address = ctypes.addressof(found)
        earlier = 0
        for size, group in groupby(buffers, key=lambda buffer: buffer.size):
            alike = list(group)
            table = Table(alike)
            self._call("sta_first_nonfinite", threads, size, len(alike), table[0], address, address + 8)
            if found[0] >= 0:
                return earlier + found[0], found[1]
            earlier += len(alike)
        return None

    def stream_sum(self, inputs: Sequence[Buffer], out: Buffer, *, threads: int) -> None:
        """Read the inputs, write their sum: the roofline that the benchmarks hold every op against."""
        table = Table((*inputs, out))
        self._call("sta_stream_sum", threads, out.size, len(inputs), table[0], table.last)

    def stream_read(self, inputs: Sequence[Buffer], *, threads: int) -> float:
        """Read the inputs and add everything up: the roofline of a reduction."""
        table = Table(inputs)
        result = ctypes.c_double()
        self._call("sta_stream_read", threads, inputs[0].size, len(inputs), table[0], ctypes.addressof(result))
        return result.value

    def _call(self, name: str, threads: int, *arguments: Any, keep: object = None) -> None:
        """Call a function of the core; ``keep`` owns what the arguments point at."""
        options = array("q", (threads, self._isa, self._tile, self._streaming_bytes))
        check_status(name, getattr(self._core, name)(*arguments, options.buffer_info()[0]))
