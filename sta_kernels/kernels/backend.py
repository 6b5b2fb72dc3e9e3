"""What every kernel backend offers: the same functions over plain buffers, with the same bits.

Arguments named ``*_address`` point at small C-contiguous arrays owned by the caller. All buffers of one
call have the same number of elements; shapes may differ only in being flattened. ``threads`` is an upper
bound. No backend allocates anything that grows with the number of elements, but for the row that a rank gate sorts.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.kernels.formula import FormulaSource, Source

TIES = ("drop", "all", "first")
LEAF = 4096
"""Elements per leaf of a tier-B sum."""
ROW_BYTES = 48
"""Most bytes per entry that sorting a row takes in main memory."""


class Backend(Protocol):
    """The kernels of one backend."""

    name: str
    batched: bool
    """Whether one call on the operands of a whole model costs far less than one call per tensor."""

    def grouped(self) -> AbstractContextManager[None]:
        """Within it, calls that write tensors may be held back until its end (``taylor_finish`` excepted).

        A backend that pays for each launch makes few of many calls. Operands must stay as they are until the end,
        outputs and counters are valid then only, and no call may read or write what another one writes.
        """

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
        """Normalise, select among the N tasks, accumulate (eq. 13–17).

        ``normaliser_address``: float32 [N, 2], (shift, divisor). ``k``: 0..N, ranks from below that are dropped.
        ``counts_address``: int64 [N + 1], added to: kept entries per task, then positions that keep nothing; 0 for
        none.
        """

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
        """``[θ0 +] λ·((Σ w_i·(θ_i [− θ0])) / divisor)``; the base terms only where a base is given."""

    def ranges(
        self,
        sources: Sequence[Source],
        minmax: np.ndarray[Any, Any] | None,
        leaves: Sequence[np.ndarray[Any, Any]] | None,
        *,
        threads: int,
    ) -> None:
        """Ranges of many sources, their tier-B sums, or both.

        ``minmax``: float32 [n, 2], start at (inf, −inf), into which min and max are folded; NaN sticks. ``leaves``:
        contiguous float64 [⌈size/4096⌉] per source, set to the tier-B leaf sums. None where they are not wanted.
        """

    def fold(self, leaves: np.ndarray[Any, Any]) -> float:
        """Tier-B sum of leaf sums: adjacent pairs, level by level, an odd last one carried up."""

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
        """Add to ``counts`` (uint64 [2**digit_bits]) the next digit of every key that starts with ``prefix``.

        A key is the 32-bit order-preserving integer of the float32 importance; every NaN is 0xFFFFFFFF.
        """

    def order_statistic(self, source: Source, k: int, *, threads: int) -> float:
        """Exact k-th smallest (1-based) of float32 importances; −0 before +0, NaN last."""

    def order_statistics(self, sources: Sequence[Source], ks: Sequence[int], *, threads: int) -> list[float]:
        """:meth:`order_statistic` of many importances."""

    def order_statistic_exact(self, x: Buffer, k: int, *, threads: int) -> float:
        """Exact k-th smallest in the buffer's own dtype (float64 is not narrowed)."""

    def count_equal(self, source: Source, value: float, *, counts: np.ndarray[Any, Any], threads: int) -> int:
        """How many elements are greater than ``value``; of those equal to it, how many there are in each leaf.

        ``counts``: uint32 [⌈size/4096⌉], set.
        """

    def values(self, source: Source, start: int, stop: int) -> np.ndarray[Any, Any]:
        """A few elements of a source, float32 in main memory."""

    def evaluate(self, source: FormulaSource, *, out: Buffer, threads: int) -> None:
        """A formula's value at every position, rounded to ``out``, which may be one of the operands.

        Where the formula is a merged task vector δ, what is written is ``RN(θ0 + δ)``, and the base's own value,
        converted, where δ is 0.
        """

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
        """For each entry of a task vector 0, or by a draw 1; more likely 1 the greater it is within its row.

        ``row``: entries of a row, which divides the size. ``chances``: of 2³², those of the least and of the greatest
        entry (``reference/rank_gate.py``). ``scaled``: 2³² over the chance in place of 1. ``seed``, ``tensor``,
        ``task`` and ``offset``, the index of the first element in its tensor, say which draws
        (``reference/philox.py``). ``out``: float32, none of the operands. A row takes up to :data:`ROW_BYTES` bytes
        per entry.
        """

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
        """``target − λ·(w·τ)`` where the importance exceeds ``threshold`` (eq. 18–20).

        ``counts_address``: int64 [1], added to; 0 for none.
        """

    def taylor_accumulate(self, total: Buffer, grad: Buffer, *, threads: int) -> None:
        """``total += |grad|`` in place (eq. 12's sum)."""

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
        """``|θ|·total`` (``·θ²`` for lp_amp; ``θ²`` for amp) into ``out``; its range and leaf sums on the way.

        ``out`` may be ``total``. ``minmax``: float32 [2], folded into; ``leaves`` as in :meth:`ranges`. Both describe
        the values as written to ``out``.
        """

    def taylor_finish_many(
        self, items: Sequence[tuple[Buffer, Buffer, Buffer]], *, measure: str, threads: int
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """:meth:`taylor_finish` of many parameters, (total, param, out) each.

        Returns float32 [n, 2], the range of each from (inf, −inf), and float64 [n], the tier-B sum of each.
        """

    def first_nonfinite(self, buffers: Sequence[Buffer], *, threads: int = 1) -> tuple[int, int] | None:
        """(buffer, flat index) of the first NaN or infinity, or None; sizes may differ."""


def check_rows(size: int, row: int, chances: tuple[int, int]) -> None:
    """Refuse what is no rank gate.

    Raises:
        ValueError: rows that do not fill the operands or are too long to rank, or chances out of range.
    """
    if not 1 <= row < 1 << 32 or size % row:
        raise ValueError(f"row = {row}: expected a divisor of {size}, the number of elements, below 2³²")
    low, high = chances
    if not (0 <= low <= high < 1 << 32 or low == high == 1 << 32):
        raise ValueError(f"chances = {chances}: expected two rising numbers below 2³², or that twice")


def finish_one_by_one(
    backend: Backend, items: Sequence[tuple[Buffer, Buffer, Buffer]], measure: str, threads: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """:meth:`Backend.taylor_finish_many` where a call costs little."""
    ranges = np.tile(np.array((np.inf, -np.inf), np.float32), (len(items), 1))
    sums = np.zeros(len(items), np.float64)
    for i, (total, param, out) in enumerate(items):
        leaves = np.zeros(-(-out.size // LEAF), np.float64)
        backend.taylor_finish(total, param, measure=measure, out=out, minmax=ranges[i], leaves=leaves, threads=threads)
        sums[i] = backend.fold(leaves)
    return ranges, sums
