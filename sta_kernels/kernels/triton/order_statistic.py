"""Exact order statistics of many tensors by radix selection, without a host round trip between the passes.

A pass counts, in one launch per signature, the next eleven bits of every key that starts with the bits chosen so far;
one more launch, a program per tensor, then chooses the digit that holds the wanted rank. Keys are integers that order
as the values do, −0 below +0 and every NaN last: of 16 bits for stored bfloat16 and float16 (two passes), of 32 for
float32 (three), of 64 for float64 that is not narrowed (six).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl

from sta_kernels.kernels.buffers import Buffer, DType, ImportanceSource
from sta_kernels.kernels.triton.config import ACCESS, WARP, LaunchConfig
from sta_kernels.kernels.triton.primitives import key, pointer, positions
from sta_kernels.kernels.triton.sources import Signature, read_importance, tabulate
from sta_kernels.kernels.triton.tables import upload

_DIGIT_BITS = 11
_KEY_BITS = 32
_MOST_BITS = 12
"""Of a digit: its histogram stands in shared memory."""
_WIDTHS = {DType.F32: 32, DType.BF16: 16, DType.F16: 16, DType.F64: 64}
_F64: tl.constexpr = tl.constexpr(int(DType.F64))
_F32: tl.constexpr = tl.constexpr(int(DType.F32))
_BF16: tl.constexpr = tl.constexpr(int(DType.BF16))


def histogram_config(signature: Signature, n_elements: int) -> LaunchConfig:
    """Launch of a histogram: blocks large enough that clearing and reading the bins costs little beside counting."""
    warps = 8
    block = warps * WARP * max(ACCESS // min(signature.itemsizes), min(32, 128 // max(signature.itemsizes)))
    blocks = 32
    while blocks > 1 and n_elements < 1024 * block * blocks:
        blocks //= 2
    return LaunchConfig(block, block * blocks, warps)


def launch_order_statistic(
    device: torch.device,
    sources: Sequence[ImportanceSource],
    ks: Sequence[int] | torch.Tensor,
    *,
    config: LaunchConfig | None = None,
) -> torch.Tensor:
    """Exact k-th smallest float32 importance of each tensor.

    Args:
        device: where the sources' addresses are.
        sources: contiguous operands.
        ks: rank per tensor, 1-based: integers, or int64 [n] on the device.
        config: of the histograms; by signature and size if None.

    Returns:
        float32 [n] on the device; −0 before +0, NaN last; NaN where a rank is below 1 or above the number of elements.

    Raises:
        ValueError: an operand missing, with strides, or of another size than its companion.
    """
    return _launch(device, sources, ks, torch.float32, config)


def launch_order_statistic_exact(
    device: torch.device,
    buffers: Sequence[Buffer],
    ks: Sequence[int] | torch.Tensor,
    *,
    config: LaunchConfig | None = None,
) -> torch.Tensor:
    """Exact k-th smallest element of each buffer in its own dtype, float64 included.

    Args:
        device: where the buffers are.
        buffers: contiguous.
        ks: as :func:`launch_order_statistic`.
        config: of the histograms; by dtype and size if None.

    Returns:
        float64 [n] on the device, which holds every dtype's values; order and NaN as :func:`launch_order_statistic`.

    Raises:
        ValueError: a buffer with strides.
    """
    return _launch(device, [ImportanceSource("lp", buffer) for buffer in buffers], ks, torch.float64, config)


def launch_histogram(
    device: torch.device,
    source: ImportanceSource,
    prefix: int,
    prefix_bits: int,
    digit_bits: int,
    *,
    config: LaunchConfig | None = None,
) -> torch.Tensor:
    """How often each next digit follows a prefix among the 32-bit keys of the float32 importances.

    Args:
        device: where the source's addresses are.
        source: contiguous operands.
        prefix: the leading ``prefix_bits`` bits of the keys that count.
        prefix_bits: 0 or more.
        digit_bits: 1 or more; each bit above 12 doubles the number of reads.
        config: of the launch; by signature and size if None.

    Returns:
        int64 [2**digit_bits] on the device.

    Raises:
        ValueError: prefix and digit exceed a key; or as :func:`launch_order_statistic`.
    """
    shift = _KEY_BITS - prefix_bits - digit_bits
    if prefix_bits < 0 or digit_bits < 1 or shift < 0:
        raise ValueError(f"a prefix of {prefix_bits} and a digit of {digit_bits} bits: a key has {_KEY_BITS}")
    if digit_bits > _MOST_BITS:
        halves = (prefix << 1, prefix << 1 | 1)
        return torch.cat(
            [launch_histogram(device, source, half, prefix_bits + 1, digit_bits - 1, config=config) for half in halves]
        )
    choose = histogram_config if config is None else lambda signature, n_elements: config
    state = np.array([[prefix, 0]], np.int64)
    launches, rows, (prefixes,) = tabulate(device, [source], [0], choose, state)
    counts = torch.zeros((1, 1 << digit_bits), dtype=torch.int64, device=device)
    for launch in launches:
        _histogram_kernel[(len(launch.chunks),)](
            rows,
            launch.chunks,
            prefixes,
            counts,
            shift,
            **launch.signature.constants(),
            WIDTH=_KEY_BITS,
            DIGIT_BITS=digit_bits,
            BLOCK=launch.config.block,
            CHUNK=launch.config.chunk,
            num_warps=launch.config.warps,
            enable_fp_fusion=False,
        )
    return counts[0]


def _launch(
    device: torch.device,
    sources: Sequence[ImportanceSource],
    ks: Sequence[int] | torch.Tensor,
    result_dtype: torch.dtype,
    config: LaunchConfig | None,
) -> torch.Tensor:
    exact = result_dtype == torch.float64
    choose = histogram_config if config is None else lambda signature, n_elements: config
    keyed = [int(_key_dtype(Signature.of(source), exact)) for source in sources]
    state = np.zeros((len(sources), 2), np.int64)
    launches, rows, (state_there,) = tabulate(device, sources, keyed, choose, state)
    if not isinstance(ks, torch.Tensor):
        (ks,) = upload(device, np.asarray(ks, np.int64).reshape(len(sources)))
    counts = torch.zeros((len(sources), 1 << _DIGIT_BITS), dtype=torch.int64, device=device)
    result = torch.full((len(sources),), float("nan"), dtype=result_dtype, device=device)
    widths = [_WIDTHS[_key_dtype(launch.signature, exact)] for launch in launches]
    # Passes end together, so that one launch chooses for tensors of all widths: the narrower begin later.
    for shift in reversed(range(0, max(widths, default=0), _DIGIT_BITS)):
        for launch, width in zip(launches, widths, strict=True):
            if shift < width:
                _histogram_kernel[(len(launch.chunks),)](
                    rows,
                    launch.chunks,
                    state_there,
                    counts,
                    shift,
                    **launch.signature.constants(),
                    WIDTH=width,
                    DIGIT_BITS=_DIGIT_BITS,
                    BLOCK=launch.config.block,
                    CHUNK=launch.config.chunk,
                    num_warps=launch.config.warps,
                    enable_fp_fusion=False,
                )
        _choose_digit_kernel[(len(sources),)](
            rows,
            ks,
            state_there,
            counts,
            result,
            shift,
            DIGIT_BITS=_DIGIT_BITS,
            RESULT=tl.float64 if exact else tl.float32,
            num_warps=4,
            enable_fp_fusion=False,
        )
    return result


def _key_dtype(signature: Signature, exact: bool) -> DType:
    """Dtype whose bits make the keys: the stored one where it is read as it stands, else float32."""
    if signature.importance is None or signature.theta is not None:
        return DType.F32
    return DType.F32 if signature.importance is DType.F64 and not exact else signature.importance


@triton.jit(do_not_specialize=["shift"])
def _histogram_kernel(
    rows_ptr,  # int64 [S, 4]: elements, key dtype, importance, weight
    chunks_ptr,  # int32 [C, 2]: row, chunk within it
    state_ptr,  # int64 [S, 2]: leading bits chosen so far, rank among the keys that have them
    counts_ptr,  # int64 [S, 2**DIGIT_BITS]
    shift,  # of the digit within a key
    MEASURE: tl.constexpr,
    IMPORTANCE: tl.constexpr,
    THETA: tl.constexpr,
    ALIGNED: tl.constexpr,
    WIDTH: tl.constexpr,
    DIGIT_BITS: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    bins = tl.arange(0, 1 << DIGIT_BITS)
    program = tl.program_id(0).to(tl.int64)
    row = tl.load(chunks_ptr + 2 * program).to(tl.int64)
    row_ptr = rows_ptr + 4 * row
    first = tl.load(chunks_ptr + 2 * program + 1).to(tl.int64) * CHUNK
    count = tl.minimum(tl.load(row_ptr) - first, CHUNK).to(tl.int32)
    importance_ptr = pointer(tl.load(row_ptr + 2), IMPORTANCE, ALIGNED) + first
    theta_ptr = pointer(tl.load(row_ptr + 3), THETA, ALIGNED) + first
    prefix = tl.load(state_ptr + 2 * row)
    counts = tl.zeros([1 << DIGIT_BITS], tl.int32)
    whole = count // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        here = positions(start, BLOCK)
        digits, matches = _digits(
            importance_ptr, theta_ptr, here, None, prefix, shift, MEASURE, IMPORTANCE, WIDTH, DIGIT_BITS
        )
        counts += tl.histogram(digits, 1 << DIGIT_BITS, mask=matches)
    if whole < count:
        here = positions(whole, BLOCK)
        inside = here < count
        digits, matches = _digits(
            importance_ptr, theta_ptr, here, inside, prefix, shift, MEASURE, IMPORTANCE, WIDTH, DIGIT_BITS
        )
        counts += tl.histogram(digits, 1 << DIGIT_BITS, mask=matches & inside)
    counts_ptr += row << DIGIT_BITS
    tl.atomic_add(counts_ptr + bins, counts.to(tl.int64), mask=counts > 0, sem="relaxed")


@triton.jit
def _digits(
    importance_ptr,
    theta_ptr,
    here,
    mask,
    prefix,
    shift,
    MEASURE: tl.constexpr,
    IMPORTANCE: tl.constexpr,
    WIDTH: tl.constexpr,
    DIGIT_BITS: tl.constexpr,
):
    """Next digits of the keys, and whether what is before them is the prefix."""
    if WIDTH == 32:
        keys = key(read_importance(importance_ptr, theta_ptr, here, mask, MEASURE, "")).to(tl.uint32)
    else:
        if mask is None:
            stored = tl.load(importance_ptr + here)
        else:
            stored = tl.load(importance_ptr + here, mask=mask, other=0.0)
        if WIDTH == 16:
            bits = stored.to(tl.uint16, bitcast=True).to(tl.uint32)
            ordered = tl.where(bits >> 15 != 0, bits ^ 0xFFFF, bits | 0x8000)
            infinity: tl.constexpr = 0x7F80 if IMPORTANCE == tl.bfloat16 else 0x7C00
            keys = tl.where((bits & 0x7FFF) > infinity, 0xFFFF, ordered).to(tl.uint32)
        else:
            bits = stored.to(tl.uint64, bitcast=True)
            ordered = tl.where(bits >> 63 != 0, bits ^ 0xFFFFFFFFFFFFFFFF, bits | 0x8000000000000000)
            keys = tl.where(stored == stored, ordered, 0xFFFFFFFFFFFFFFFF).to(tl.uint64)
    # In two steps: together they may shift by the whole width, where no digit is known yet.
    leading = keys >> shift.to(keys.dtype)
    matches = (leading >> DIGIT_BITS) == prefix.to(keys.dtype)
    return (leading & ((1 << DIGIT_BITS) - 1)).to(tl.int32), matches


@triton.jit(do_not_specialize=["shift"])
def _choose_digit_kernel(
    rows_ptr,  # int64 [S, 4]: elements, key dtype, importance, weight
    ks_ptr,  # int64 [S]
    state_ptr,  # int64 [S, 2]: leading bits chosen so far, rank among the keys that have them
    counts_ptr,  # int64 [S, 2**DIGIT_BITS]: set to 0 for the next pass
    result_ptr,  # [S]
    shift,  # of the digit within a key
    DIGIT_BITS: tl.constexpr,
    RESULT: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    dtype = tl.load(rows_ptr + 4 * row + 1)
    width = tl.where(dtype == _F64, 64, tl.where(dtype == _F32, 32, 16))
    if shift < width:
        here = counts_ptr + (row << DIGIT_BITS) + tl.arange(0, 1 << DIGIT_BITS)
        cumulative = tl.cumsum(tl.load(here), 0)
        rank = tl.load(state_ptr + 2 * row + 1)
        if shift + DIGIT_BITS >= width:
            rank = tl.load(ks_ptr + row)
            # Rank 0 stays 0 through all passes, and its result the NaN that it is.
            rank = tl.where((rank >= 1) & (rank <= tl.load(rows_ptr + 4 * row)), rank, 0)
        passed = cumulative < rank
        digit = tl.sum(passed.to(tl.int64), 0)
        keys = (tl.load(state_ptr + 2 * row) << DIGIT_BITS) | digit
        rank -= tl.max(tl.where(passed, cumulative, 0), 0)
        tl.store(state_ptr + 2 * row, keys)
        tl.store(state_ptr + 2 * row + 1, rank)
        tl.store(here, tl.zeros([1 << DIGIT_BITS], tl.int64))
        if (shift == 0) & (rank > 0):
            if dtype == _F64:
                bits = tl.where(keys < 0, keys ^ -0x8000000000000000, ~keys)
                tl.store(result_ptr + row, bits.to(tl.float64, bitcast=True).to(RESULT))
            elif dtype == _F32:
                bits = tl.where(keys >> 31 != 0, keys ^ 0x80000000, keys ^ 0xFFFFFFFF)
                tl.store(result_ptr + row, bits.to(tl.uint32).to(tl.float32, bitcast=True).to(RESULT))
            else:
                bits = tl.where(keys >> 15 != 0, keys ^ 0x8000, keys ^ 0xFFFF)
                if dtype == _BF16:
                    tl.store(result_ptr + row, (bits << 16).to(tl.uint32).to(tl.float32, bitcast=True).to(RESULT))
                else:
                    tl.store(result_ptr + row, bits.to(tl.uint16).to(tl.float16, bitcast=True).to(RESULT))
