"""STA forgetting (eq. 18–20) over all tensors of a model in one launch per signature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl

from sta_kernels.kernels.buffers import Buffer, DType
from sta_kernels.kernels.triton.config import LaunchConfig, elementwise_config
from sta_kernels.kernels.triton.primitives import narrow, pointer, positions, widen
from sta_kernels.kernels.triton.sources import read_importance
from sta_kernels.kernels.triton.tables import aligned, check_contiguous, chunks, language_dtype, upload


@dataclass(frozen=True, slots=True)
class ForgetSegment:
    """Operands of one tensor, of equal size.

    Attributes:
        target: the model that forgets; may be the base.
        base: the common origin.
        finetuned: the task's model.
        importance: stored importance of the task; not read for ``amp``.
        out: where the result goes; may be one of the others, element for element.
    """

    target: Buffer
    base: Buffer
    finetuned: Buffer
    importance: Buffer | None
    out: Buffer


@dataclass(frozen=True)
class _Signature:
    dtypes: tuple[DType, DType, DType, DType | None, DType]  # target, base, finetuned, importance, out
    same: bool  # target and base are one: it is read once
    aligned: bool


def launch_sta_forget(
    device: torch.device,
    segments: Sequence[ForgetSegment],
    *,
    thresholds: torch.Tensor,
    measure: str,
    weight: float,
    lambda_: float,
    counts: torch.Tensor | None = None,
    config: LaunchConfig | None = None,
) -> None:
    """``RN(target − RN(λ·RN(w·RN(θ − θ0))))`` where the importance exceeds a threshold, the target elsewhere (eq. 20).

    Args:
        device: where the buffers are.
        segments: contiguous operands.
        thresholds: float32 [S] on the device, as ``launch_order_statistic`` gives them; a NaN, there or in the
            importance, selects nothing.
        measure: ``lp``, ``amp`` (θ² of the fine-tuned weight) or ``lp_amp``.
        weight: of the task; rounded to float32.
        lambda_: of the whole; rounded to float32.
        counts: int64 [S] on the device, to which the number of selected elements is added; or None.
        config: of the launches; by dtypes and size if None.

    Raises:
        ValueError: a buffer with strides or of another size than its companions; no importance for a measure that
            reads one.
    """
    groups: dict[_Signature, list[int]] = {}
    table = np.zeros((len(segments), 6), np.int64)
    for index, segment in enumerate(segments):
        signature, row = _describe(segment, measure)
        table[index] = row
        if segment.out.size:
            groups.setdefault(signature, []).append(index)
    lists, configs = [], []
    for signature, members in groups.items():
        sizes = [segments[member].out.size for member in members]
        dtypes = [dtype for dtype in signature.dtypes if dtype is not None]
        itemsizes = [dtype.itemsize for dtype in dtypes]
        configs.append(
            config
            or elementwise_config(
                itemsizes,
                sum(sizes),
                device=device,
                op="sta_forget",
                dtypes=dtypes,
                variant=(measure, "base" if signature.same else "merged"),
            )
        )
        per_group = chunks(sizes, configs[-1].chunk)
        per_group[:, 0] = np.asarray(members, np.int32)[per_group[:, 0]]
        lists.append(per_group)
    rows, *uploaded = upload(device, table, *lists)
    with np.errstate(over="ignore"):
        factors = float(np.float32(weight)), float(np.float32(lambda_))
    for signature, launch, there in zip(groups, configs, uploaded, strict=True):
        target, base, finetuned, importance, out = (language_dtype(dtype or DType.F32) for dtype in signature.dtypes)
        _sta_forget_kernel[(len(there),)](
            rows,
            there,
            thresholds,
            rows if counts is None else counts,
            *factors,
            MEASURE=measure,
            SAME=signature.same,
            COUNTED=counts is not None,
            ALIGNED=signature.aligned,
            TARGET=target,
            BASE=base,
            FINETUNED=finetuned,
            IMPORTANCE=importance,
            OUT=out,
            BLOCK=launch.block,
            CHUNK=launch.chunk,
            num_warps=launch.warps,
            enable_fp_fusion=False,
        )


def _describe(segment: ForgetSegment, measure: str) -> tuple[_Signature, tuple[int, ...]]:
    """What the segment's launch is compiled for, and its row: elements, then the addresses in the kernel's order."""
    importance = None if measure == "amp" else segment.importance
    if measure != "amp" and importance is None:
        raise ValueError(f"measure {measure!r} reads an importance, and a segment has none")
    buffers = [segment.target, segment.base, segment.finetuned, segment.out]
    buffers += [] if importance is None else [importance]
    check_contiguous(buffers)
    if len({buffer.size for buffer in buffers}) != 1:
        raise ValueError(f"operands differ in size: {buffers}")
    target, base = segment.target, segment.base
    same = target.address == base.address and target.dtype is base.dtype
    dtypes = (
        target.dtype,
        base.dtype,
        segment.finetuned.dtype,
        None if importance is None else importance.dtype,
        segment.out.dtype,
    )
    address = 0 if importance is None else importance.address
    row = (target.size, target.address, base.address, segment.finetuned.address, address, segment.out.address)
    return _Signature(dtypes, same, aligned(buffers)), row


@triton.jit
def _sta_forget_kernel(
    rows_ptr,  # int64 [S, 6]: elements, target, base, finetuned, importance, out
    chunks_ptr,  # int32 [C, 2]: row, chunk within it
    thresholds_ptr,  # float32 [S]
    counts_ptr,  # int64 [S]
    weight,
    lambda_,
    MEASURE: tl.constexpr,
    SAME: tl.constexpr,
    COUNTED: tl.constexpr,
    ALIGNED: tl.constexpr,
    TARGET: tl.constexpr,
    BASE: tl.constexpr,
    FINETUNED: tl.constexpr,
    IMPORTANCE: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    row = tl.load(chunks_ptr + 2 * program).to(tl.int64)
    row_ptr = rows_ptr + 6 * row
    first = tl.load(chunks_ptr + 2 * program + 1).to(tl.int64) * CHUNK
    count = tl.minimum(tl.load(row_ptr) - first, CHUNK).to(tl.int32)
    target_ptr = pointer(tl.load(row_ptr + 1), TARGET, ALIGNED) + first
    base_ptr = pointer(tl.load(row_ptr + 2), BASE, ALIGNED) + first
    finetuned_ptr = pointer(tl.load(row_ptr + 3), FINETUNED, ALIGNED) + first
    importance_ptr = pointer(tl.load(row_ptr + 4), IMPORTANCE, ALIGNED) + first
    out_ptr = pointer(tl.load(row_ptr + 5), OUT, ALIGNED) + first
    threshold = tl.load(thresholds_ptr + row)
    selected = tl.zeros([BLOCK], tl.int32)
    whole = count // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        here = positions(start, BLOCK)
        importance = read_importance(importance_ptr, finetuned_ptr, here, None, MEASURE, "")
        stored = tl.load(target_ptr + here)
        base = widen(stored if SAME else tl.load(base_ptr + here))
        finetuned = widen(tl.load(finetuned_ptr + here))
        chosen = importance > threshold
        tl.store(out_ptr + here, _forget(stored, base, finetuned, chosen, weight, lambda_, OUT))
        if COUNTED:
            selected += chosen.to(tl.int32)
    if whole < count:
        here = positions(whole, BLOCK)
        inside = here < count
        importance = read_importance(importance_ptr, finetuned_ptr, here, inside, MEASURE, "")
        stored = tl.load(target_ptr + here, mask=inside, other=0.0)
        base = widen(stored if SAME else tl.load(base_ptr + here, mask=inside, other=0.0))
        finetuned = widen(tl.load(finetuned_ptr + here, mask=inside, other=0.0))
        chosen = (importance > threshold) & inside
        tl.store(out_ptr + here, _forget(stored, base, finetuned, chosen, weight, lambda_, OUT), mask=inside)
        if COUNTED:
            selected += chosen.to(tl.int32)
    if COUNTED:
        tl.atomic_add(counts_ptr + row, tl.sum(selected, 0).to(tl.int64), sem="relaxed")


@triton.jit
def _forget(stored, base, finetuned, chosen, weight, lambda_, OUT: tl.constexpr):
    """The target without the task's vector where chosen, as it is elsewhere."""
    target = widen(stored)
    changed = target - lambda_ * (weight * (finetuned - base))
    result = narrow(tl.where(chosen, changed, target), OUT)
    if stored.dtype == tl.float64 and OUT == tl.float64:
        result = tl.where(chosen, result, stored)
    return result
