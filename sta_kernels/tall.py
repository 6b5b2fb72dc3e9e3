"""TALL masks on state dicts: one merged model, and a bit per entry and task, from which each task is restored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sta_kernels.errors import InputError
from sta_kernels.merging import merge
from sta_kernels.state_dict import Tensors

Masks = dict[str, torch.Tensor]


def tall_masks(
    base: Tensors, finetuned: Sequence[Tensors], *, mask_lambda: float | Sequence[float] = 0.4, **options: Any
) -> tuple[dict[str, torch.Tensor], list[Masks]]:
    """Sum up all task vectors, and say for each task which entries of the sum serve it (arXiv 2405.07813).

    ``τ_M = Σ τ_t`` and ``m_t = [|τ_t| > λ_t·|τ_M − τ_t|]``; an entry that the sum leaves as the base has it is in no
    mask, as it restores nothing.

    Args:
        base: state dict of the common base.
        finetuned: one state dict per task.
        mask_lambda: λ_t, one number for all or one per task.
        **options: ``exclude``, ``out_dtype`` and ``threads`` as :func:`sta_kernels.merge` takes them.

    Returns:
        The sum ``θ0 + τ_M`` as a state dict, and per task the packed mask of each floating entry: uint8 [⌈n/8⌉], the
        first element in the highest bit. Both can be saved as they are, by ``safetensors.torch.save_file``.

    Raises:
        InputError: see :func:`sta_kernels.merge`.
    """
    merged = merge(base, finetuned, method="task_arithmetic", **options)
    neutral = merge(base, list(finetuned)[:1], method="task_arithmetic", weight=0.0, **options)
    masks = []
    for task in range(len(finetuned)):
        own = merge(base, finetuned, method="tall_mask", task=task, mask_lambda=mask_lambda, **options)
        masks.append({name: _packed(own[name] != neutral[name]) for name in merged if merged[name].is_floating_point()})
    return merged, masks


def restore_task(base: Tensors, merged: Tensors, masks: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """One task's model: the merged entry where its mask is set, the base's elsewhere.

    Args:
        base: state dict of the common base.
        merged: the sum that :func:`tall_masks` returned, or one loaded again.
        masks: that task's.

    Returns:
        A new state dict with the names, the order and the dtypes of ``merged``.

    Raises:
        InputError: a mask that belongs to no entry, or is of another size.
    """
    for name, mask in masks.items():
        size = merged[name].numel() if name in merged else None
        if size is None or mask.dtype != torch.uint8 or mask.numel() != -(-size // 8):
            expected = "no such entry" if size is None else f"uint8 [{-(-size // 8)}] is needed"
            raise InputError(f"masks: {name!r}: {mask.dtype} {list(mask.shape)}, but {expected}")
    restored = {}
    for name, tensor in merged.items():
        restored[name] = tensor.clone()
        if name in masks:
            bits = _unpacked(masks[name], tensor)
            restored[name] = torch.where(bits, tensor, base[name].to(tensor))
    return restored


def _packed(bits: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.packbits(bits.cpu().numpy().reshape(-1)))


def _unpacked(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    bits = np.unpackbits(mask.cpu().numpy(), count=like.numel()).view(np.bool_)
    return torch.from_numpy(bits).reshape(like.shape).to(like.device)
