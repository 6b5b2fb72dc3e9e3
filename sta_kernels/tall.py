"""TALL masks on state dicts: one merged model, and a bit per entry and task, from which each task is restored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sta_kernels.errors import InputError
from sta_kernels.merging import merge
from sta_kernels.state_dict import StateDict, Tensors

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
        base: state dict of the common base; wrappers are taken off as :func:`sta_kernels.merge` does.
        merged: the sum that :func:`tall_masks` returned, or one loaded again.
        masks: that task's.

    Returns:
        A new state dict with the names, the order and the dtypes of ``merged``.

    Raises:
        InputError: a mask that belongs to no entry, or is of another size; an entry that the base lacks, or has in
            another shape.
    """
    if not isinstance(masks, Mapping):
        raise InputError(f"masks: expected those of one task, got a {type(masks).__name__}; give one of them: masks[t]")
    start, whole, given = StateDict("base", base), StateDict("merged", merged), StateDict("masks", masks)
    # All names of a few masks may begin as a wrapper's do, and not those of the model.
    own = {given.prefix + name if given.prefix + name in whole.tensors else name: given.tensors[name]
           for name in given.tensors}  # fmt: skip
    for name, mask in own.items():
        size = whole.tensors[name].numel() if name in whole.tensors else None
        if size is None or mask.dtype != torch.uint8 or mask.numel() != -(-size // 8):
            expected = "no such entry" if size is None else f"uint8 [{-(-size // 8)}] is needed"
            raise InputError(f"masks: {name!r}: {mask.dtype} {list(mask.shape)}, but {expected}")
        origin = start.tensors.get(name)
        if origin is None or origin.shape != whole.tensors[name].shape:
            found = "no such entry" if origin is None else f"shape {list(origin.shape)}"
            raise InputError(f"base: {name!r}: {found}, but merged has shape {list(whole.tensors[name].shape)}")
    restored = {}
    for name, tensor in whole.tensors.items():
        if name in own:
            restored[whole.prefix + name] = torch.where(
                _unpacked(own[name], tensor), tensor, start.tensors[name].to(tensor)
            )
        else:
            restored[whole.prefix + name] = tensor.clone()
    return restored


def _packed(bits: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.packbits(bits.cpu().numpy().reshape(-1)))


def _unpacked(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    bits = np.unpackbits(mask.cpu().numpy(), count=like.numel()).view(np.bool_)
    return torch.from_numpy(bits).reshape(like.shape).to(like.device)
