"""Bytes that each op has to move: every operand read once, every result written once.

The one model by which ops, rooflines and baselines are all counted. An op that needs a statistic of a whole tensor
before it can start reads that tensor once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor


def moved(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors."""
    return sum(tensor.nbytes for tensor in tensors)


def sta_merge(
    base: Tensor, finetuned: Sequence[Tensor], importances: Sequence[Tensor], out: Tensor, *, normaliser_given: bool
) -> int:
    """Without a normaliser, the importances are read for their ranges first."""
    return moved((base, *finetuned, out)) + moved(importances) * (1 if normaliser_given else 2)


def sta_forget(target: Tensor, base: Tensor, finetuned: Tensor, importance: Tensor, out: Tensor) -> int:
    """The importance is read for its order statistic first."""
    return moved((target, base, finetuned, out)) + 2 * importance.nbytes


def read_once(tensors: Iterable[Tensor]) -> int:
    """``minmax``, ``normaliser``; ``order_statistic``, though no selection can do with one read of its input."""
    return moved(tensors)


def linear(finetuned: Sequence[Tensor], out: Tensor) -> int:
    """The base is not read."""
    return moved((*finetuned, out))


def task_arithmetic(base: Tensor, finetuned: Sequence[Tensor], out: Tensor) -> int:
    """One pass."""
    return moved((base, *finetuned, out))


def taylor_accumulate(total: Tensor, grad: Tensor) -> int:
    """The total is read and written."""
    return 2 * total.nbytes + grad.nbytes


def taylor_finish(total: Tensor, param: Tensor, out: Tensor) -> int:
    """One pass; the statistics come on the way."""
    return moved((total, param, out))
