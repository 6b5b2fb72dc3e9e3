"""Weighted sums of models: averages, task arithmetic, negation; all tensors of a model in one launch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.triton.config import LaunchConfig, elementwise_config, registers
from sta_kernels.kernels.triton.primitives import narrow, pointer, positions, widen
from sta_kernels.kernels.triton.tables import aligned, check_contiguous, chunks, language_dtype, rows, upload

MOST_IN_REGISTERS = 16
"""Models whose elements a thread loads at once; more go in groups of :data:`_GROUP`."""

_GROUP = 8
_FEW = 48
"""Elements of models in a thread's hands up to which the assembler chooses its registers well."""


@dataclass(frozen=True, slots=True)
class SumSegment:
    """One tensor: θ0 or None, its version in each model, and where the sum goes (which may be any of them)."""

    base: Buffer | None
    models: tuple[Buffer, ...]
    out: Buffer


def launch_weighted_sum(
    device: torch.device,
    segments: Sequence[SumSegment],
    *,
    weights: Sequence[float],
    divisor: float,
    lambda_: float,
    config: LaunchConfig | None = None,
) -> None:
    """``[θ0 +] λ·((Σ w_i·(θ_i [− θ0]))/divisor)`` of many tensors, one launch per signature.

    Every step is rounded, from +0 in model order, as ``reference.linear.weighted_sum_exact`` has it.

    Args:
        device: that holds the buffers.
        segments: contiguous buffers of equal size each, any of the dtypes that kernels read, one model per weight.
        weights: one per model, rounded to float32.
        divisor: rounded to float32; one that is 0 then counts as 1.
        lambda_: rounded to float32.
        config: of the launches; None chooses.
    """
    factors = np.array(weights, np.float32)
    quotient = float(np.float32(divisor)) or 1.0
    scale = float(np.float32(lambda_))
    groups: dict[tuple[Any, ...], list[tuple[int, int, Sequence[Buffer]]]] = {}
    for index, segment in enumerate(segments):
        base = segment.out if segment.base is None else segment.base
        buffers = (base, segment.out, *segment.models)
        check_contiguous(buffers)
        models = tuple(model.dtype for model in segment.models)
        signature = (segment.base is not None, base.dtype, segment.out.dtype, models, aligned(buffers))
        groups.setdefault(signature, []).append((segment.out.size, index, buffers))
    for (has_base, base_dtype, out, models, is_aligned), members in groups.items():
        sizes = [size for size, _, _ in members]
        if not any(sizes):
            continue
        dtypes = (base_dtype, out, *models)
        launch = config or elementwise_config(
            [dtype.itemsize for dtype in dtypes],
            sum(sizes),
            device=device,
            op="weighted_sum",
            dtypes=dtypes,
            variant=(len(models), "based" if has_base else "baseless"),
        )
        in_groups = len(models) > MOST_IN_REGISTERS and len(set(models)) == 1
        held = (_GROUP if in_groups else len(models)) * launch.per_thread
        table = chunks(sizes, launch.chunk)
        rows_there, chunks_there, factors_there = upload(device, rows(members), table, factors)
        _weighted_sum_kernel[(len(table),)](
            rows_there,
            chunks_there,
            factors_there,
            quotient,
            scale,
            len(models),
            N=0 if in_groups else len(models),
            GROUP=_GROUP,
            HAS_BASE=has_base,
            # A factor of 1 changes no bit.
            WEIGHTED=bool((factors != 1).any()),
            DIVIDED=quotient != 1.0,
            SCALED=scale != 1.0,
            ALIGNED=is_aligned,
            BASE=language_dtype(base_dtype),
            MODELS=tuple(language_dtype(dtype) for dtype in (models[:1] if in_groups else models)),
            OUT=language_dtype(out),
            BLOCK=launch.block,
            CHUNK=launch.chunk,
            num_warps=launch.warps,
            enable_fp_fusion=False,
            **(registers(128) if held > _FEW else {}),
        )


@triton.jit
def _weighted_sum_kernel(
    rows_ptr,  # int64 [R, 4 + n]: elements, index, base, out, models
    chunks_ptr,  # int32 [C, 2]: row, chunk within it
    weights_ptr,  # float32 [n]
    divisor,
    lambda_,
    n_models,
    N: tl.constexpr,  # n, or 0 where the models are taken in groups
    GROUP: tl.constexpr,
    HAS_BASE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    DIVIDED: tl.constexpr,
    SCALED: tl.constexpr,
    ALIGNED: tl.constexpr,
    BASE: tl.constexpr,
    MODELS: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    row_ptr = rows_ptr + tl.load(chunks_ptr + 2 * program).to(tl.int64) * (4 + n_models)
    first = tl.load(chunks_ptr + 2 * program + 1).to(tl.int64) * CHUNK
    count = tl.minimum(tl.load(row_ptr) - first, CHUNK).to(tl.int32)
    base_ptr = pointer(tl.load(row_ptr + 2), BASE, ALIGNED) + first
    out_ptr = pointer(tl.load(row_ptr + 3), OUT, ALIGNED) + first
    models = ()
    weights = ()
    for i in tl.static_range(N):
        models += (pointer(tl.load(row_ptr + 4 + i), MODELS[i], ALIGNED) + first,)
        weights += (tl.load(weights_ptr + i) if WEIGHTED else 1.0,)
    done = count // BLOCK * BLOCK
    for start in range(0, done, BLOCK):
        here = positions(start, BLOCK)
        base = widen(tl.load(base_ptr + here)) if HAS_BASE else 0.0
        total = tl.zeros([BLOCK], tl.float32)
        if N > 0:
            thetas = ()
            for i in tl.static_range(N):
                thetas += (widen(tl.load(models[i] + here)),)
            for i in tl.static_range(N):
                total += _term(thetas[i], base, weights[i], HAS_BASE, WEIGHTED)
        else:
            for group in range(0, n_models, GROUP):
                thetas = ()
                for i in tl.static_range(GROUP):
                    exists = group + i < n_models
                    address = tl.load(row_ptr + 4 + group + i, mask=exists, other=0)
                    model_ptr = pointer(address, MODELS[0], ALIGNED) + first
                    thetas += (widen(tl.load(model_ptr + here, mask=exists, other=0.0)),)
                for i in tl.static_range(GROUP):
                    if group + i < n_models:
                        weight = tl.load(weights_ptr + group + i)
                        total += _term(thetas[i], base, weight, HAS_BASE, WEIGHTED)
        merged = _scaled(total, base, divisor, lambda_, HAS_BASE, DIVIDED, SCALED)
        tl.store(out_ptr + here, narrow(merged, OUT))
    if done < count:
        here = positions(done, BLOCK)
        inside = here < count
        base = widen(tl.load(base_ptr + here, mask=inside, other=0.0)) if HAS_BASE else 0.0
        total = tl.zeros([BLOCK], tl.float32)
        if N > 0:
            for i in tl.static_range(N):
                theta = widen(tl.load(models[i] + here, mask=inside, other=0.0))
                total += _term(theta, base, weights[i], HAS_BASE, WEIGHTED)
        else:
            for i in range(n_models):
                model_ptr = pointer(tl.load(row_ptr + 4 + i), MODELS[0], ALIGNED) + first
                theta = widen(tl.load(model_ptr + here, mask=inside, other=0.0))
                total += _term(theta, base, tl.load(weights_ptr + i), HAS_BASE, WEIGHTED)
        merged = _scaled(total, base, divisor, lambda_, HAS_BASE, DIVIDED, SCALED)
        tl.store(out_ptr + here, narrow(merged, OUT), mask=inside)


@triton.jit
def _term(theta, base, weight, HAS_BASE: tl.constexpr, WEIGHTED: tl.constexpr):
    """``RN(w·RN(θ − θ0))``, or ``RN(w·θ)``."""
    term = theta - base if HAS_BASE else theta
    if WEIGHTED:
        term = weight * term
    return term


@triton.jit
def _scaled(total, base, divisor, lambda_, HAS_BASE: tl.constexpr, DIVIDED: tl.constexpr, SCALED: tl.constexpr):
    """The sum divided, scaled, and added to the base."""
    if DIVIDED:
        total = tl.div_rn(total, tl.full(total.shape, divisor, tl.float32))
    if SCALED:
        total = lambda_ * total
    return base + total if HAS_BASE else total
