"""What the merge kernel (:mod:`.sta_merge`) is compiled with: network, counters, what it keeps in registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton

from sta_kernels.kernels.buffers import DType
from sta_kernels.kernels.triton import tables
from sta_kernels.kernels.triton.config import LaunchConfig
from sta_kernels.kernels.triton.networks import selection_network
from sta_kernels.kernels.triton.tuned import MOST_BLOCKS

MOST_IN_REGISTERS = 16
"""Tasks up to which the importances of a block fit the registers."""

_MOST_EIGHTS = 9
"""Tasks up to which eight elements per thread of the models fit the registers beside those of the importances."""

_MOST_EIGHTS_OF_F16 = 14
"""Tasks up to which eight elements per thread of importances alone do where float16 is among the dtypes, conversions of
which take registers of their own; of others, those of all tasks fit."""


def takes_fours(dtypes: Sequence[DType], n_tasks: int, measure: str) -> bool:
    """Whether a thread takes as many elements as make 16 bytes of float32, whatever is narrower.

    Where models belong to the measure, they wait for the selection in registers: of 11 tasks on, eight elements of each
    are spilled, and of 10 they leave no room for normalisers (:func:`_kept`), which costs more than 64-bit accesses.
    """
    if measure == "lp":
        return DType.F16 in dtypes and _MOST_EIGHTS_OF_F16 < n_tasks <= MOST_IN_REGISTERS
    return n_tasks > _MOST_EIGHTS


def merge_itemsizes(dtypes: Sequence[DType], n_tasks: int, measure: str) -> list[int]:
    """Sizes of elements by which a launch is chosen: a thread takes as many as make 16 bytes of the narrowest."""
    least = DType.F32.itemsize if takes_fours(dtypes, n_tasks, measure) else 1
    return [max(dtype.itemsize, least) for dtype in dtypes]


def merge_constants(
    n_tasks: int,
    base: DType,
    model: DType,
    importance: DType,
    out: DType,
    *,
    k: int,
    ties: str,
    measure: str,
    weighted: bool,
    counted: bool,
    aligned: bool,
    config: LaunchConfig,
) -> dict[str, Any]:
    """Compile-time arguments of the kernel.

    Raises:
        ValueError: more blocks per chunk than the counters can count.
    """
    if config.chunk > MOST_BLOCKS * config.block:
        raise ValueError(f"{config}: a chunk of the merge is at most {MOST_BLOCKS} blocks")
    n_power = max(2, triton.next_power_of_2(n_tasks))
    rank = k if ties == "drop" else k + 1
    per_thread = max(1, config.per_thread)
    dtypes = (base, model, importance, out)
    fast = 2 <= n_tasks <= MOST_IN_REGISTERS and 1 <= rank <= n_tasks and ties != "first" and out is not DType.F64
    if ties == "drop":
        fast = fast and k < n_tasks
    return {
        "N": n_tasks,
        "N_POWER": n_power,
        "RANK": rank,
        "K": k,
        "TIES": ties,
        "MEASURE": measure,
        "NETWORK": selection_network(n_tasks, rank) if fast else (),
        "WEIGHTED": weighted,
        "COUNTED": counted,
        # Counters that share a 32-bit integer of a thread: each counts the elements that it sees of a chunk.
        "FIELDS": 32 // (per_thread * MOST_BLOCKS).bit_length(),
        "PER_THREAD": per_thread,
        "FAST": fast,
        # Where importances leave too few registers, pointers and weights of all tasks are loaded again in every block.
        "FRUGAL": n_tasks * config.per_thread > 48,
        "KEPT": _kept(n_tasks, config.per_thread, measure, dtypes, counted),
        "ALIGNED": aligned,
        "BASE": tables.language_dtype(base),
        "MODEL": tables.language_dtype(model),
        "IMPORTANCE": tables.language_dtype(importance),
        "OUT": tables.language_dtype(out),
        "BLOCK": config.block,
        "ZEROS_BLOCK": config.block // max(1, per_thread // 4),
        "PLAIN_BLOCK": _plain_block(n_power, measure, dtypes),
    }


def _plain_block(n_power: int, measure: str, dtypes: Sequence[DType]) -> int:
    """Elements that the general path ranks at a time: fewer where float16 is multiplied, up to eight tasks."""
    ranked = 512 if measure == "lp_amp" and DType.F16 in dtypes and n_power <= 8 else 1024
    return max(16, min(128, ranked // n_power))


def _kept(n_tasks: int, per_thread: int, measure: str, dtypes: Sequence[DType], counted: bool) -> int:
    """Number of tasks whose normalisers stay in a thread's registers, four numbers each.

    Those of the others are computed again in every block: of all where importances alone leave no room, and of most
    where ``lp_amp`` holds a model beside each importance until the selection, or float16 is converted and counted.
    """
    importances = n_tasks * per_thread
    if importances > 72:
        return 0
    if measure == "lp_amp":
        return min(n_tasks, (172 - 2 * importances) // 4)
    return (80 - importances) // 4 if measure == "lp" and counted and takes_fours(dtypes, n_tasks, measure) else n_tasks
