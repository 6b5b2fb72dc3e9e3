"""What the ops must give, from the reference's equations alone: no buffers, backends or ops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sta_kernels.kernels.reference import importance, sta_merge


@dataclass
class Operands:
    """What ``sta_merge`` reads: a base, and per task a fine-tuned tensor and an importance."""

    base: Tensor
    finetuned: list[Tensor]
    importances: list[Tensor]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.base, self.finetuned, self.importances))


def float32(tensor: Tensor) -> np.ndarray:
    """A copy of the values that a kernel reads, flattened in C order."""
    return tensor.detach().to(torch.float32).reshape(-1).numpy().copy()


def expected_merge(
    operands: Operands,
    k: int,
    *,
    measure: str = "lp",
    ties: str = "drop",
    weight: Sequence[float] | None = None,
    lambda_: float = 1.0,
    normaliser: Tensor | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(float32 result, mask) of one whole tensor."""
    theta = np.stack([float32(each) for each in operands.finetuned])
    stored = np.stack([float32(each) for each in operands.importances]) if measure != "amp" else None
    values = importance.measure_exact(measure, stored, theta)
    if normaliser is None:
        low, high = values.min(axis=1), values.max(axis=1)
        shift, divisor = low, high - low
    else:
        shift, divisor = normaliser.numpy().T
    mask = sta_merge.mask_exact(sta_merge.normalise_exact(values, shift, divisor), k, ties)
    return sta_merge.merge_exact(float32(operands.base), theta, mask, weight, lambda_), mask


def assert_bits(actual: Tensor, expected: np.ndarray | Tensor) -> None:
    """Equality of every bit but a NaN's payload; float32 expectations are rounded once to the actual dtype."""
    if isinstance(expected, np.ndarray):
        expected = torch.from_numpy(expected).to(actual.dtype)
    actual, expected = actual.detach().reshape(-1), expected.detach().reshape(-1)
    assert actual.dtype == expected.dtype
    assert torch.equal(actual.isnan(), expected.isnan())
    numbers = ~actual.isnan()
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[actual.itemsize]
    assert torch.equal(actual[numbers].view(integers), expected[numbers].view(integers))
