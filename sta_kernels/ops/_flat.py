"""Tensors as a launch takes them: flat memory, in which the same offset is the same element of every operand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from sta_kernels.kernels.buffers import Buffer, torch_dtype


class Flat:
    """Operands of one shape in one layout, whichever costs the fewest copies.

    Tensors that are dense in the same way (all contiguous, all transposed, all channels-last) are taken as they lie.
    The layout that most bytes have is kept; what has another, or gaps, is packed into it, and results come back from
    it in :meth:`finish`.

    Args:
        tensors: all of the operands, results among them, of one shape.
        in_order: the order of the elements matters, as to a sum: C order, whatever that costs.
    """

    def __init__(self, tensors: Sequence[Tensor], *, in_order: bool = False) -> None:
        self._steps = _c_steps(tensors[0].shape)
        self._results: list[tuple[Tensor, Tensor]] = []
        if not in_order and not all(tensor.is_contiguous() for tensor in tensors):
            layouts: Counter[tuple[int, ...]] = Counter()
            for tensor in tensors:
                if _is_dense(tensor):
                    layouts[_steps(tensor)] += tensor.nbytes
            if layouts:
                ((self._steps, _),) = layouts.most_common(1)

    def read(self, tensor: Tensor) -> Buffer:
        """Values to read."""
        return _buffer(tensor.detach() if self._fits(tensor) else self._empty(tensor).copy_(tensor.detach()))

    def written(self, tensor: Tensor) -> Buffer:
        """Memory to write every element of."""
        return _buffer(tensor.detach() if self._fits(tensor) else self._elsewhere(tensor))

    def updated(self, tensor: Tensor) -> Buffer:
        """Values to read and replace."""
        if self._fits(tensor):
            return _buffer(tensor.detach())
        return _buffer(self._elsewhere(tensor).copy_(tensor.detach()))

    def finish(self) -> None:
        """Copy the results to where they belong."""
        for tensor, packed in self._results:
            tensor.copy_(packed)

    def _elsewhere(self, tensor: Tensor) -> Tensor:
        packed = self._empty(tensor)
        self._results.append((tensor.detach(), packed))
        return packed

    def _fits(self, tensor: Tensor) -> bool:
        return tensor.numel() == 0 or _steps(tensor) == self._steps

    def _empty(self, tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.shape, self._steps, dtype=tensor.dtype, device=tensor.device)


def flat(tensor: Tensor) -> Buffer:
    """The elements of one tensor in any order, packed only where there are gaps or repetitions between them."""
    return _buffer(tensor.detach() if _is_dense(tensor) else tensor.detach().contiguous())


def of_one_dtype(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors; where dtypes differ, their float32 values, which are what a kernel reads."""
    if len({tensor.dtype for tensor in tensors}) <= 1:
        return list(tensors)
    return [tensor.detach().float() for tensor in tensors]


def _buffer(tensor: Tensor) -> Buffer:
    return Buffer(tensor.data_ptr(), torch_dtype(tensor.dtype), (tensor.numel(),), None, tensor)


def _c_steps(shape: Sequence[int]) -> tuple[int, ...]:
    """:func:`_steps` of a contiguous tensor."""
    steps, step = [], 1
    for size in reversed(shape):
        steps.append(step if size > 1 else 0)
        step *= size
    return tuple(reversed(steps))


def _steps(tensor: Tensor) -> tuple[int, ...]:
    """Strides; 0 where there is nothing to step to."""
    return tuple(step if size > 1 else 0 for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill a stretch of memory, each a place of its own."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for step, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if step != expected:
                return False
            expected *= size
    return True
