"""STA fusion (eq. 13, 15–17) to the letter: ranks by counting, for any number of tasks, rules for ties and dtypes."""

from __future__ import annotations

import triton
import triton.language as tl

from sta_kernels.kernels.triton.primitives import narrow, normalise_plainly, widen


@triton.jit(noinline=True)
def merge_plainly(
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
    models = tl.load(row_ptr + 4 + task, mask=exists, other=0).to(tl.pointer_type(MODEL))[:, None]
    if MEASURE != "amp":
        importances = tl.load(row_ptr + 4 + N + task, mask=exists, other=0).to(tl.pointer_type(IMPORTANCE))[:, None]
    base_ptr = tl.load(row_ptr + 2).to(tl.pointer_type(BASE))
    out_ptr = tl.load(row_ptr + 3).to(tl.pointer_type(OUT))
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
        # A NaN ranks as +inf. Rows beyond the last task hold anything, and no rank counts them.
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
            model_ptr = tl.load(row_ptr + 4 + i).to(tl.pointer_type(MODEL))
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
