"""Random operands, distributed as real ones are where that matters to a kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FORMATS = {
    "float32": (torch.float32, torch.float32),
    "bfloat16 weights": (torch.bfloat16, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
}
"""dtypes of weights and importances."""


@dataclass(frozen=True)
class Operands:
    """A base, fine-tuned tensors and their importances, of one dimension."""

    base: Tensor
    finetuned: list[Tensor]
    importances: list[Tensor]
    out: Tensor

    def __getitem__(self, window: slice) -> Operands:
        return Operands(
            self.base[window],
            [each[window] for each in self.finetuned],
            [each[window] for each in self.importances],
            self.out[window],
        )


def operands(formats: str, n_models: int, n_elements: int, *, zeros: float = 0.0) -> Operands:
    """Weights of a normal distribution that fine-tuning moved a little, importances of a log-normal one.

    Args:
        formats: a key of :data:`FORMATS`.
        n_models: number of tasks.
        n_elements: of each tensor.
        zeros: share of importances that are 0, as of weights that a task never touches.
    """
    weight_dtype, importance_dtype = FORMATS[formats]
    generator = torch.Generator().manual_seed(n_models)
    values = torch.empty(n_elements)
    base = values.normal_(0.0, 0.02, generator=generator).clone()
    finetuned, importances = [], []
    for _ in range(n_models):
        values.normal_(0.0, 0.001, generator=generator)
        finetuned.append((base + values).to(weight_dtype))
        values.log_normal_(-8.0, 2.0, generator=generator)
        if zeros:
            values[torch.rand(n_elements, generator=generator) < zeros] = 0.0
        importances.append(values.to(importance_dtype, copy=True))
    base = base.to(weight_dtype)
    return Operands(base, finetuned, importances, torch.zeros_like(base))


def case(formats: str, n_models: int, n_elements: int) -> dict[str, object]:
    """The part of a row's case that says what the operands are."""
    weights, importances = (str(dtype).removeprefix("torch.") for dtype in FORMATS[formats])
    return {
        "elements": n_elements,
        "models": n_models,
        "weights": weights,
        "importances": importances,
        "threads": torch.get_num_threads(),
    }
