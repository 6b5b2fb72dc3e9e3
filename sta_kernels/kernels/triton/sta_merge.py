"""STA fusion (eq. 13, 15–17) over all tensors of a model in one launch.

A program works through one chunk of one tensor, block by block. A block takes the fast path: every operand is loaded
once, importances are normalised, a selection network finds the k-th smallest, the selected task vectors are added, and
the result is stored. What the fast path cannot do with the reference's bits takes the plain path, which follows the
equations to the letter for any number of tasks: blocks that hold a quotient below the normal range or a NaN, the end of
a tensor, the other rules for ties.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sta_kernels.kernels.triton.primitives import (
    LEAST_EXACT,
    invariant,
    least,
    narrow,
    normalise,
    normalise_plainly,
    pointer,
    positions,
    select,
    widen,
)


@triton.jit
def _sta_merge_kernel(
    rows_ptr,  # int64 [S, 3 + 2N]: elements, base, out, models, importances
    chunks_ptr,  # int32 [C, 2]: row, chunk within it
    normaliser_ptr,  # float32 [S, N, 2]: shift, divisor
    weights_ptr,  # float32 [S, N]
    counts_ptr,  # int64 [S, N + 1]
    lambda_,
    N: tl.constexpr,
    N_POWER: tl.constexpr,
    K: tl.constexpr,
    TIES: tl.constexpr,
    MEASURE: tl.constexpr,
    NETWORK: tl.constexpr,
    WEIGHTED: tl.constexpr,
    COUNTED: tl.constexpr,
    FAST: tl.constexpr,
    ALIGNED: tl.constexpr,
    BASE: tl.constexpr,
    MODEL: tl.constexpr,
    IMPORTANCE: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK: tl.constexpr,
    PLAIN_BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    segment = tl.load(chunks_ptr + 2 * program).to(tl.int64)
    first = tl.load(chunks_ptr + 2 * program + 1).to(tl.int64) * CHUNK
    row_ptr = rows_ptr + segment * (3 + 2 * N)
    normaliser_ptr += segment * 2 * N
    weights_ptr += segment * N
    counts_ptr += segment * (N + 1)
    count = tl.minimum(tl.load(row_ptr) - first, CHUNK).to(tl.int32)
    base_ptr = pointer(tl.load(row_ptr + 1), BASE, ALIGNED) + first
    out_ptr = pointer(tl.load(row_ptr + 2), OUT, ALIGNED) + first
    done = 0
    if FAST:
        models = ()
        importances = ()
        invariants = ()
        exact = True
        for i in tl.static_range(N):
            models += (pointer(tl.load(row_ptr + 3 + i), MODEL, ALIGNED) + first,)
            if MEASURE != "amp":
                importances += (pointer(tl.load(row_ptr + 3 + N + i), IMPORTANCE, ALIGNED) + first,)
            known = invariant(tl.load(normaliser_ptr + 2 * i), tl.load(normaliser_ptr + 2 * i + 1))
            invariants += (known[:4],)
            exact = exact & known[4]
        if exact:
            done = count // BLOCK * BLOCK
        for start in range(0, done, BLOCK):
            here = positions(start, BLOCK)
            base = widen(tl.load(base_ptr + here))
            values = ()
            thetas = ()
            for i in tl.static_range(N):
                theta = widen(tl.load(models[i] + here))
                if MEASURE == "amp":
                    importance = theta * theta
                else:
                    importance = widen(tl.load(importances[i] + here))
                    if MEASURE == "lp_amp":
                        importance = importance * (theta * theta)
                thetas += (theta,)
                values += (normalise(importance, *invariants[i]),)
            threshold = select(values, NETWORK, K if TIES == "drop" else K + 1)
            # From −0, a sum of nothing leaves every base as it is, −0 too.
            total = tl.full([BLOCK], 0.0 if WEIGHTED else -0.0, tl.float32)
            routed = tl.full([BLOCK], False, tl.int1)
            for i in tl.static_range(N):
                chosen = values[i] > threshold if TIES == "drop" else values[i] >= threshold
                term = thetas[i] - base
                if WEIGHTED:
                    term = tl.load(weights_ptr + i) * term
                total = tl.where(chosen, total + term, total)
                routed = routed | chosen
            if WEIGHTED:
                merged = tl.where(routed, base + lambda_ * total, base)
            else:
                merged = base + total
            ordinary = tl.reduce(threshold, 0, least) >= LEAST_EXACT
            tl.store(out_ptr + here, narrow(merged, OUT), mask=ordinary)
            if COUNTED:
                if ordinary:
                    for i in tl.static_range(N):
                        chosen = values[i] > threshold if TIES == "drop" else values[i] >= threshold
                        tl.atomic_add(counts_ptr + i, tl.sum(chosen.to(tl.int32), 0).to(tl.int64), sem="relaxed")
                    tl.atomic_add(counts_ptr + N, BLOCK - tl.sum(routed.to(tl.int32), 0).to(tl.int64), sem="relaxed")
            if not ordinary:
                _merge_plainly(
                    row_ptr,
                    normaliser_ptr,
                    weights_ptr,
                    counts_ptr,
                    lambda_,
                    first + start,
                    first + start + BLOCK,
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
    if done < count:
        _merge_plainly(
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


@triton.jit(noinline=True)
def _merge_plainly(
    row_ptr,
    normaliser_ptr,
    weights_ptr,
    counts_ptr,
    lambda_,
    begin,
    end,
    N: tl.constexpr,
    N_POWER: tl.constexpr,
    K: tl.constexpr,
    TIES: tl.constexpr,
    MEASURE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    COUNTED: tl.constexpr,
    BASE: tl.constexpr,
    MODEL: tl.constexpr,
    IMPORTANCE: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Merge elements ``begin`` to ``end`` of a row by ranks among its tasks, for any number of tasks."""
    task = tl.arange(0, N_POWER)
    exists = task < N
    shift = tl.load(normaliser_ptr + 2 * task, mask=exists, other=0.0)[:, None]
    divisor = tl.load(normaliser_ptr + 2 * task + 1, mask=exists, other=0.0)[:, None]
    models = tl.load(row_ptr + 3 + task, mask=exists, other=0).to(tl.pointer_type(MODEL))[:, None]
    importances = tl.load(row_ptr + 3 + N + task, mask=exists & (MEASURE != "amp"), other=0)
    importances = importances.to(tl.pointer_type(IMPORTANCE))[:, None]
    base_ptr = tl.load(row_ptr + 1).to(tl.pointer_type(BASE))
    out_ptr = tl.load(row_ptr + 2).to(tl.pointer_type(OUT))
    for start in range(begin, end, BLOCK):
        here = start + tl.arange(0, BLOCK)
        inside = here < end
        there = exists[:, None] & inside[None, :]
        # [N, BLOCK]
        if MEASURE == "lp":
            importance = widen(tl.load(importances + here[None, :], mask=there, other=0.0))
        else:
            theta = widen(tl.load(models + here[None, :], mask=there, other=0.0))
            importance = theta * theta
            if MEASURE == "lp_amp":
                importance = widen(tl.load(importances + here[None, :], mask=there, other=0.0)) * importance
        value = normalise_plainly(importance, shift, divisor)
        # A NaN ranks as +inf; rows beyond the last task below everything, where no rank counts them.
        ranked = tl.where(value == value, value, float("inf"))
        stored = tl.load(base_ptr + here, mask=inside, other=0.0)
        base = widen(stored)
        total = tl.zeros([BLOCK], tl.float32)
        routed = tl.full([BLOCK], False, tl.int1)
        for i in range(N):
            own = tl.sum(tl.where(task[:, None] == i, ranked, 0.0), 0)
            number = tl.sum(((task[:, None] == i) & (value == value)).to(tl.int32), 0) > 0
            below = tl.sum(((ranked < own[None, :]) & exists[:, None]).to(tl.int32), 0)
            above = tl.sum(((ranked > own[None, :]) & exists[:, None]).to(tl.int32), 0)
            if TIES == "drop":
                chosen = below >= K
            elif TIES == "all":
                chosen = above < N - K
            else:
                earlier = (ranked == own[None, :]) & (task[:, None] < i)
                chosen = above + tl.sum(earlier.to(tl.int32), 0) < N - K
            chosen = chosen & number & inside
            model_ptr = tl.load(row_ptr + 3 + i).to(tl.pointer_type(MODEL))
            term = widen(tl.load(model_ptr + here, mask=inside, other=0.0)) - base
            if WEIGHTED:
                term = tl.load(weights_ptr + i) * term
            total = tl.where(chosen, total + term, total)
            routed = routed | chosen
            if COUNTED:
                tl.atomic_add(counts_ptr + i, tl.sum(chosen.to(tl.int32), 0).to(tl.int64), sem="relaxed")
        if WEIGHTED:
            total = lambda_ * total
        merged = narrow(tl.where(routed, base + total, base), OUT)
        if BASE == tl.float64 and OUT == tl.float64:
            merged = tl.where(routed, merged, stored)
        if COUNTED:
            unrouted = tl.sum((inside & ~routed).to(tl.int32), 0)
            tl.atomic_add(counts_ptr + N, unrouted.to(tl.int64), sem="relaxed")
        tl.store(out_ptr + here, merged, mask=inside)
