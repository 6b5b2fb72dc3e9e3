"""STA fusion (eq. 13, 15–17) over all tensors of a model in one launch.

A program works through one chunk of one tensor, block by block. A block takes the fast path: every operand is loaded
once, importances are normalised, a selection network finds the k-th smallest, the selected task vectors are added, and
the result is stored. A block whose k-th values are not all well above zero is looked at again, in case it holds exact
zeros only (:mod:`.sta_merge_zeros`). What is left takes the plain path (:mod:`.sta_merge_plain`), which follows the
equations to the letter for any number of tasks: blocks that hold a quotient below the normal range or a NaN, the end of
a tensor, float64 results, the rule for ties that wants an order among tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from sta_kernels.kernels.buffers import Buffer, DType
from sta_kernels.kernels.triton import tables
from sta_kernels.kernels.triton.config import LaunchConfig, elementwise_config, registers
from sta_kernels.kernels.triton.primitives import (
    LEAST_EXACT,
    invariant,
    least,
    narrow,
    normalise,
    pointer,
    positions,
    select,
    widen,
)
from sta_kernels.kernels.triton.sta_merge_constants import merge_constants, merge_itemsizes
from sta_kernels.kernels.triton.sta_merge_plain import merge_plainly
from sta_kernels.kernels.triton.sta_merge_zeros import merge_zeros


@dataclass(frozen=True)
class MergeSegment:
    """One tensor, or part of one: contiguous buffers of as many elements each, on one device.

    ``importances`` is empty where the measure needs none. ``out`` may be an operand, element for element. Models share
    a dtype, and so do importances.
    """

    base: Buffer
    models: tuple[Buffer, ...]
    importances: tuple[Buffer, ...]
    out: Buffer

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """In the order of a row of the kernel's table."""
        return (self.base, self.out, *self.models, *self.importances)

    @property
    def dtypes(self) -> tuple[DType, DType, DType, DType]:
        """Of base, models, importances (float32 where there are none) and result.

        Raises:
            ValueError: models, or importances, of several dtypes: the kernel would read one's bytes as another's.
        """
        models = {buffer.dtype for buffer in self.models}
        importances = {buffer.dtype for buffer in self.importances} or {DType.F32}
        if len(models) != 1 or len(importances) != 1:
            raise ValueError(f"{self.models}, {self.importances}: each of one dtype can be launched")
        return self.base.dtype, models.pop(), importances.pop(), self.out.dtype


def launch_sta_merge(
    device: torch.device,
    segments: Sequence[MergeSegment],
    *,
    k: int,
    ties: str,
    measure: str,
    normaliser: torch.Tensor,
    weights: torch.Tensor | None = None,
    lambda_: float = 1.0,
    counts: torch.Tensor | None = None,
    config: LaunchConfig | None = None,
) -> None:
    """Merge all segments; one launch for those of the same dtypes and alignment. Asynchronous.

    Args:
        device: where the buffers are; the CPU in the interpreter.
        segments: of the same number of tasks each.
        k: ranks from below that are dropped, 0..N.
        ties: "drop", "all" or "first".
        measure: "lp", "amp" or "lp_amp".
        normaliser: float32 [S, N, 2] on the device: (shift, divisor).
        weights: float32 [S, N] on the device; None: all 1.
        lambda_: factor of the sum.
        counts: int64 [S, N + 1] on the device, added to: kept entries per task, then positions that keep nothing.
        config: launch configuration; None chooses by the dtypes and the number of elements.

    Raises:
        ValueError: a buffer with strides; models, or importances, of several dtypes.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, segment in enumerate(segments):
        tables.check_contiguous(segment.buffers)
        if segment.out.size:
            groups.setdefault((tables.aligned(segment.buffers), *segment.dtypes), []).append(index)
    weighted = weights is not None or lambda_ != 1.0
    if weights is None:  # all 1, where the kernel reads any
        weights = torch.ones(normaliser.shape[:2], device=device) if weighted else normaliser
    for (aligned, base, model, importance, out), indices in groups.items():
        chosen = [segments[index] for index in indices]
        first = chosen[0]
        sizes = [segment.out.size for segment in chosen]
        dtypes = [buffer.dtype for buffer in first.buffers]
        launch = config or elementwise_config(
            merge_itemsizes(dtypes, len(first.models), measure),
            sum(sizes),
            device=device,
            op="sta_merge",
            dtypes=dtypes,
            variant=(len(first.models), measure),
        )
        constants = merge_constants(
            len(first.models),
            base,
            model,
            importance,
            out,
            k=k,
            ties=ties,
            measure=measure,
            weighted=weighted,
            counted=counts is not None,
            aligned=aligned,
            config=launch,
        )
        rows = [(size, index, segment.buffers) for size, index, segment in zip(sizes, indices, chosen, strict=True)]
        row_table, chunk_table = tables.upload(device, tables.rows(rows), tables.chunks(sizes, launch.chunk))
        _sta_merge_kernel[(len(chunk_table),)](
            row_table,
            chunk_table,
            normaliser,
            weights,
            row_table if counts is None else counts,
            lambda_,
            launch.chunk,
            **constants,
            num_warps=launch.warps,
            enable_fp_fusion=False,
            **registers(255),
        )


@triton.jit
def _sta_merge_kernel(
    rows_ptr,  # int64 [R, 4 + 2N]: elements, segment, base, out, models, importances
    chunks_ptr,  # int32 [C, 2]: row, chunk within it
    normaliser_ptr,  # float32 [S, N, 2]: shift, divisor
    weights_ptr,  # float32 [S, N]
    counts_ptr,  # int64 [S, N + 1]
    lambda_,
    chunk,  # elements per program, a multiple of BLOCK
    N: tl.constexpr,
    N_POWER: tl.constexpr,
    RANK: tl.constexpr,
    K: tl.constexpr,
    TIES: tl.constexpr,
    MEASURE: tl.constexpr,
    NETWORK: tl.constexpr,
    WEIGHTED: tl.constexpr,
    COUNTED: tl.constexpr,
    FIELDS: tl.constexpr,
    PER_THREAD: tl.constexpr,
    FAST: tl.constexpr,
    FRUGAL: tl.constexpr,
    KEPT: tl.constexpr,
    ALIGNED: tl.constexpr,
    BASE: tl.constexpr,
    MODEL: tl.constexpr,
    IMPORTANCE: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK: tl.constexpr,
    ZEROS_BLOCK: tl.constexpr,
    PLAIN_BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    first = tl.load(chunks_ptr + 2 * program + 1).to(tl.int64) * chunk
    stride: tl.constexpr = 4 + N if MEASURE == "amp" else 4 + 2 * N
    row_ptr = rows_ptr + tl.load(chunks_ptr + 2 * program).to(tl.int64) * stride
    count = tl.minimum(tl.load(row_ptr) - first, chunk).to(tl.int32)
    segment = tl.load(row_ptr + 1)
    normaliser_ptr += segment * 2 * N
    weights_ptr += segment * N
    counts_ptr += segment * (N + 1)
    done = 0
    if FAST:
        if not FRUGAL:
            base_ptr = pointer(tl.load(row_ptr + 2), BASE, ALIGNED) + first
            out_ptr = pointer(tl.load(row_ptr + 3), OUT, ALIGNED) + first
        models = ()
        importances = ()
        invariants = ()
        exact = True
        for i in tl.static_range(N):
            if not FRUGAL:
                models += (pointer(tl.load(row_ptr + 4 + i), MODEL, ALIGNED) + first,)
                if MEASURE != "amp":
                    importances += (pointer(tl.load(row_ptr + 4 + N + i), IMPORTANCE, ALIGNED) + first,)
            known = invariant(tl.load(normaliser_ptr + 2 * i), tl.load(normaliser_ptr + 2 * i + 1))
            exact = exact & known[4]
            if i < KEPT:
                invariants += (known[:4],)
        if exact:
            done = count // BLOCK * BLOCK
        tallies = ()
        if COUNTED:
            for _ in tl.static_range((N + FIELDS) // FIELDS):
                tallies += (tl.zeros([BLOCK // PER_THREAD], tl.int32),)
        for start in range(0, done, BLOCK):
            here = positions(start, BLOCK)
            if FRUGAL:
                base_ptr = pointer(tl.load(row_ptr + 2), BASE, ALIGNED) + first
            base = widen(tl.load(base_ptr + here))
            values = ()
            thetas = ()
            for i in tl.static_range(N):
                if FRUGAL:
                    model_ptr = pointer(tl.load(row_ptr + 4 + i), MODEL, ALIGNED) + first
                    if MEASURE != "amp":
                        importance_ptr = pointer(tl.load(row_ptr + 4 + N + i), IMPORTANCE, ALIGNED) + first
                else:
                    model_ptr = models[i]
                    if MEASURE != "amp":
                        importance_ptr = importances[i]
                if MEASURE == "lp":
                    importance = widen(tl.load(importance_ptr + here))
                    if not FRUGAL:
                        thetas += (widen(tl.load(model_ptr + here)),)
                else:
                    theta = widen(tl.load(model_ptr + here))
                    importance = theta * theta
                    if MEASURE == "lp_amp":
                        importance = widen(tl.load(importance_ptr + here)) * importance
                    thetas += (theta,)
                if i < KEPT:
                    values += (normalise(importance, *invariants[i]),)
                else:
                    known = invariant(tl.load(normaliser_ptr + 2 * i), tl.load(normaliser_ptr + 2 * i + 1))
                    values += (normalise(importance, *known[:4]),)
            threshold = select(values, NETWORK, RANK)
            ordinary = tl.reduce(threshold, 0, least) > LEAST_EXACT
            # A sum that starts at −0 leaves every base as it is where nothing is added, −0 too. Made of its bits: a
            # tensor filled with −0.0 holds +0.
            total = tl.full([BLOCK], 0 if WEIGHTED else -0x80000000, tl.int32).to(tl.float32, bitcast=True)
            routed = tl.full([BLOCK], False, tl.int1)
            summed = ()
            packed = tl.zeros([BLOCK], tl.int32)
            for i in tl.static_range(N):
                if FRUGAL and MEASURE == "lp":
                    theta = widen(tl.load(pointer(tl.load(row_ptr + 4 + i), MODEL, ALIGNED) + first + here))
                else:
                    theta = thetas[i]
                chosen = values[i] > threshold if TIES == "drop" else values[i] >= threshold
                term = theta - base
                if WEIGHTED:
                    term = tl.load(weights_ptr + i) * term
                total = tl.where(chosen, total + term, total)
                if WEIGHTED or COUNTED:
                    routed = routed | chosen
                if COUNTED:
                    packed = tl.where(chosen, packed + (1 << (32 // FIELDS * (i % FIELDS))), packed)
                    if i % FIELDS == FIELDS - 1:
                        summed += (tallies[i // FIELDS] + _in_thread(packed, ordinary, PER_THREAD),)
                        packed = tl.zeros([BLOCK], tl.int32)
            if WEIGHTED:
                merged = tl.where(routed, base + lambda_ * total, base)
            else:
                merged = base + total
            if FRUGAL:
                out_ptr = pointer(tl.load(row_ptr + 3), OUT, ALIGNED) + first
            tl.store(out_ptr + here, narrow(merged, OUT), mask=ordinary)
            if COUNTED:
                packed = tl.where(routed, packed, packed + (1 << (32 // FIELDS * (N % FIELDS))))
                summed += (tallies[N // FIELDS] + _in_thread(packed, ordinary, PER_THREAD),)
                tallies = summed
            if not ordinary:
                merge_zeros(
                    row_ptr,
                    normaliser_ptr,
                    weights_ptr,
                    counts_ptr,
                    lambda_,
                    first + start,
                    N,
                    N_POWER,
                    RANK,
                    K,
                    TIES,
                    MEASURE,
                    NETWORK,
                    WEIGHTED,
                    COUNTED,
                    ALIGNED,
                    BASE,
                    MODEL,
                    IMPORTANCE,
                    OUT,
                    BLOCK,
                    ZEROS_BLOCK,
                    PLAIN_BLOCK,
                )
        if COUNTED:
            for i in tl.static_range(N + 1):
                field = (tallies[i // FIELDS] >> (32 // FIELDS * (i % FIELDS))) & ((1 << (32 // FIELDS)) - 1)
                tl.atomic_add(counts_ptr + i, tl.sum(field, 0).to(tl.int64), sem="relaxed")
    if done < count:
        merge_plainly(
            row_ptr,
            normaliser_ptr,
            weights_ptr,
            counts_ptr,
            lambda_,
            first + done,
            first + count,
            N,
            N_POWER,
            K,
            TIES,
            MEASURE,
            WEIGHTED,
            COUNTED,
            BASE,
            MODEL,
            IMPORTANCE,
            OUT,
            PLAIN_BLOCK,
        )


@triton.jit
def _in_thread(packed, ordinary, PER_THREAD: tl.constexpr):
    """Add up what each thread has counted in its elements of an ordinary block."""
    return tl.where(ordinary, tl.sum(tl.reshape(packed, [packed.shape[0] // PER_THREAD, PER_THREAD]), 1), 0)
