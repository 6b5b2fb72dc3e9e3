"""STA fusion (eq. 13, 15–17) of blocks that hold exact zeros: inputs, rows and experts that saw no gradient."""

from __future__ import annotations

import triton
import triton.language as tl

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
from sta_kernels.kernels.triton.sta_merge_plain import merge_plainly


@triton.jit(noinline=True)
def merge_zeros(
    row_ptr,
    normaliser_ptr,
    weights_ptr,
    counts_ptr,
    lambda_,
    begin,
    N: tl.constexpr,
    N_POWER: tl.constexpr,
    RANK: tl.constexpr,
    K: tl.constexpr,
    TIES: tl.constexpr,
    MEASURE: tl.constexpr,
    NETWORK: tl.constexpr,
    WEIGHTED: tl.constexpr,
    COUNTED: tl.constexpr,
    ALIGNED: tl.constexpr,
    BASE: tl.constexpr,
    MODEL: tl.constexpr,
    IMPORTANCE: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK: tl.constexpr,
    ZEROS_BLOCK: tl.constexpr,
    PLAIN_BLOCK: tl.constexpr,
):
    """Merge ``BLOCK`` elements from ``begin`` on, whose least k-th value was not above ``LEAST_EXACT``.

    A quotient of 0 is exact. Where every value is 0 or above ``LEAST_EXACT``, the comparisons of the fast path hold;
    elsewhere the plain path has to follow the reference's rounding.
    """
    for start in range(begin, begin + BLOCK, ZEROS_BLOCK):
        first = tl.multiple_of(start, ZEROS_BLOCK)
        here = positions(0, ZEROS_BLOCK)
        values = ()
        smallest = tl.full([ZEROS_BLOCK], 1.0, tl.float32)
        for i in tl.static_range(N):
            if MEASURE != "lp":
                theta = widen(tl.load(pointer(tl.load(row_ptr + 4 + i), MODEL, ALIGNED) + first + here))
                importance = theta * theta
            if MEASURE != "amp":
                stored = widen(tl.load(pointer(tl.load(row_ptr + 4 + N + i), IMPORTANCE, ALIGNED) + first + here))
                importance = stored if MEASURE == "lp" else stored * importance
            known = invariant(tl.load(normaliser_ptr + 2 * i), tl.load(normaliser_ptr + 2 * i + 1))
            value = normalise(importance, *known[:4])
            smallest = least(smallest, tl.where(value == 0.0, 1.0, value))
            values += (value,)
        if tl.reduce(smallest, 0, least) > LEAST_EXACT:
            threshold = select(values, NETWORK, RANK)
            base = widen(tl.load(pointer(tl.load(row_ptr + 2), BASE, ALIGNED) + first + here))
            total = tl.zeros([ZEROS_BLOCK], tl.float32)
            routed = tl.full([ZEROS_BLOCK], False, tl.int1)
            for i in tl.static_range(N):
                chosen = values[i] > threshold if TIES == "drop" else values[i] >= threshold
                term = widen(tl.load(pointer(tl.load(row_ptr + 4 + i), MODEL, ALIGNED) + first + here)) - base
                if WEIGHTED:
                    term = tl.load(weights_ptr + i) * term
                total = tl.where(chosen, total + term, total)
                routed = routed | chosen
                if COUNTED:
                    tl.atomic_add(counts_ptr + i, tl.sum(chosen.to(tl.int32), 0).to(tl.int64), sem="relaxed")
            if COUNTED:
                unrouted = tl.sum((~routed).to(tl.int32), 0)
                tl.atomic_add(counts_ptr + N, unrouted.to(tl.int64), sem="relaxed")
            if WEIGHTED:
                total = lambda_ * total
            merged = tl.where(routed, base + total, base)
            tl.store(pointer(tl.load(row_ptr + 3), OUT, ALIGNED) + first + here, narrow(merged, OUT))
        else:
            merge_plainly(
                row_ptr,
                normaliser_ptr,
                weights_ptr,
                counts_ptr,
                lambda_,
                start,
                start + ZEROS_BLOCK,
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
