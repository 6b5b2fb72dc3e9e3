"""TSV-C on state dicts: one task as a few singular triplets per matrix, small enough to keep one of every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from sta_kernels import linalg
from sta_kernels.errors import InputError
from sta_kernels.methods.base import ModelData
from sta_kernels.methods.parameters import quantile
from sta_kernels.methods.tsv import rank_of
from sta_kernels.state_dict import StateDict, Tensors
from sta_kernels.state_dict_inputs import Inputs, choose_entries

FACTORS = (":U", ":S", ":V")
"""What follows a matrix's name in the names of its factors."""


def compress(
    base: Tensors, finetuned: Tensors, ratio: float, *, exclude: Sequence[str] = ()
) -> dict[str, torch.Tensor]:
    """Keep of each matrix of a task the first ``k = ⌊ratio·min(m, n)⌋`` singular triplets of ``τ = θ − θ0``.

    The share of a matrix that is stored is about ``ratio·(m + n)/max(m, n)``; what else a merge would merge is
    stored as it is (TSV-C, arXiv 2412.00081). Integers and running statistics of batch normalisation are not stored:
    they are the base's, as in every merge.

    Args:
        base: state dict of the common base.
        finetuned: of the task's model, with the base's names and shapes.
        ratio: in [0, 1], taken as the decimal that was written; 1/N for N tasks in the paper.
        exclude: glob patterns over names; entries that match are not stored, and come from the base again.

    Returns:
        Tensors by name, fit for ``safetensors.torch.save_file``: float32 ``NAME:U`` [m, k], ``NAME:S`` [k] and
        ``NAME:V`` [k, n] of a matrix, a copy under its own name of the rest. Tied entries are stored once.

    Raises:
        InputError: models that do not fit together, see :func:`sta_kernels.merge`; a ratio outside [0, 1].
    """
    try:
        ratio = quantile(ratio)
    except ValueError as error:
        raise InputError(f"ratio: {error}") from None
    start, task = StateDict("base", base), StateDict("finetuned", finetuned)
    inputs = Inputs(template=start, models=(task,), base=start, importances=(), target=None)
    patterns = [exclude] if isinstance(exclude, str) else exclude
    selection = choose_entries(inputs, patterns, ModelData())
    compressed: dict[str, torch.Tensor] = {}
    with linalg.one_thread():
        for name in selection.merged:
            stored = selection.stored_name(task.tensors, name)
            assert stored is not None  # choose_entries has refused models that lack it
            tensor, origin = task.tensors[stored], start.tensors[name]
            if tensor.dim() == 2:
                rank = rank_of(tuple(tensor.shape), ratio, 1)
                factors = linalg.truncated(origin, tensor, rank, name)
                compressed.update((name + suffix, factor) for suffix, factor in zip(FACTORS, factors, strict=True))
            else:
                compressed[name] = tensor.clone(memory_format=torch.contiguous_format)
    return compressed


def decompress(base: Tensors, compressed: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Restore a task: ``θ = θ0 + U·diag(S)·V`` of each matrix, everything else as it was stored.

    Args:
        base: the state dict that the task was compressed against.
        compressed: what :func:`compress` returned, or a file of it loaded again.

    Returns:
        A new state dict with the names, the order, the dtypes and the ties of the base; the same bits as
        ``merge(…, method="tsv_c")`` gives. Entries that were not stored are copies of the base's.

    Raises:
        InputError: factors that are missing or do not fit, or tensors that belong to no entry.
    """
    start = StateDict("base", base)
    aliases = start.aliases()
    left = dict(compressed)
    restored: dict[str, torch.Tensor] = {}
    with linalg.one_thread():
        for name, origin in start.tensors.items():
            if name in aliases:
                continue
            own = left.pop(name, None)
            factors = [left.pop(name + suffix, None) for suffix in FACTORS]
            if any(factor is not None for factor in factors):
                restored[name] = _restored(name, origin, factors)
            else:
                _check_shape(name, origin, own)
                restored[name] = (origin if own is None else own).to(origin.dtype, copy=True)
    if left:
        raise InputError(f"compressed: {next(iter(left))!r} belongs to no entry of the base")
    return {start.prefix + name: restored[aliases.get(name, name)] for name in start.tensors}


def _restored(name: str, origin: torch.Tensor, factors: Sequence[torch.Tensor | None]) -> torch.Tensor:
    shapes = [None if factor is None else list(factor.shape) for factor in factors]
    left, values, right = factors
    if left is None or values is None or right is None:
        raise InputError(f"compressed: {name!r} lacks a factor; it needs {', '.join(name + each for each in FACTORS)}")
    rank = values.numel()
    if origin.dim() != 2 or shapes != [[origin.shape[0], rank], [rank], [rank, origin.shape[1]]]:
        raise InputError(f"compressed: {name!r} has factors of shapes {shapes}, the base has {list(origin.shape)}")
    return linalg.restored(origin, left.float(), values.float(), right.float()).to(origin.dtype)


def _check_shape(name: str, origin: torch.Tensor, own: torch.Tensor | None) -> None:
    if own is not None and own.shape != origin.shape:
        raise InputError(f"compressed: {name!r} has shape {list(own.shape)}, the base has {list(origin.shape)}")
