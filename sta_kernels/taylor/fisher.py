"""Diagonal Fisher information of a classifier, class by class and sample by sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sta_kernels.errors import InputError
from sta_kernels.methods.statistics import Summary
from sta_kernels.taylor.arithmetic import average
from sta_kernels.taylor.gradients import GradientSums

CLASSES = ("all", "sampled")


class FisherInformation(GradientSums):
    """Diagonal Fisher information of every trainable parameter, ``F = mean_x E_{y~p(y|x)} (∂ log p_y)²``.

    What ``method="fisher"`` weighs parameters by (arXiv 2111.09832, eq. 4)::

        with FisherInformation(model) as fisher:
            for x in inputs:
                fisher.observe(model(x[None]))      # the logits of ONE sample
        fisher.save("fisher.safetensors")

    The square is taken per sample and per class: the square of a sum over samples or classes has cross terms, and is
    another quantity. :meth:`observe` takes one sample and runs one backward pass per class (``classes="all"``, the
    expectation itself) or one for a class drawn from the model's own prediction (``classes="sampled"``, an unbiased
    estimate: for many classes, and for language models, whose tokens are drawn together). A backward pass of the
    caller's own inside the block counts as a sample of which the caller chose the class.

    What else holds inside the block is as with :class:`sta_kernels.TaylorImportance`.

    Args:
        model: with its head; trainable parameters in float32, bfloat16, float16 or float64.
        classes: "all" or "sampled".
        seed: of the draws.
        dtype: of sums and result, float32 or bfloat16.
        device: of the sums; None keeps each beside its parameter.

    Raises:
        TypeError: the model is no ``torch.nn.Module``.
        InputError: an unknown value of ``classes`` or dtype; what :class:`sta_kernels.TaylorImportance` raises.

    Numerics:
        RN(g·g) in float32, of the gradient of √p_y·log p_y; a sum in order, RN(S / samples). Squares below 1e-45 are 0.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        classes: str = "all",
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(model, "fisher", dtype, device)
        if classes not in CLASSES:
            raise InputError(f"classes: expected {' or '.join(CLASSES)}, got {classes!r}")
        self._classes = classes
        self._draws = torch.Generator().manual_seed(seed)
        self._more_passes = 0

    @property
    def samples(self) -> int:
        """Samples counted so far."""
        return super().samples - self._more_passes

    def observe(self, logits: Tensor) -> None:
        """Take in one sample.

        Args:
            logits: unnormalised log-probabilities that the model gave it: [classes] or [1, classes]; with
                ``classes="sampled"`` also [1, positions, classes], a draw at every position.

        Raises:
            InputError: outside the block; more than one sample; several positions where all classes are asked for.
        """
        if self._undo is None:
            raise InputError("observe() takes samples inside the with block only")
        shape = list(logits.shape)
        if not shape or (len(shape) > 1 and shape[0] != 1):
            raise InputError(f"the logits of one sample at a time are expected, [1, classes], not {shape}")
        log_p = logits.log_softmax(-1, dtype=None if logits.dtype == torch.float64 else torch.float32)
        if self._classes == "sampled":
            chosen = torch.multinomial(log_p.detach().exp().reshape(-1, shape[-1]).cpu(), 1, generator=self._draws)
            log_p.gather(-1, chosen.to(log_p.device).reshape(*shape[:-1], 1)).sum().backward()
            return
        if logits.numel() != shape[-1]:
            raise InputError(
                f"logits of shape {shape} hold several predictions, whose classes cannot all be gone through; say "
                'classes="sampled"'
            )
        flat = log_p.flatten()
        roots = flat.detach().exp().sqrt()
        before = self._passes.count
        for y in range(len(flat)):
            (roots[y] * flat[y]).backward(retain_graph=y + 1 < len(flat))
        self._more_passes += max(self._passes.count - before - 1, 0)

    def __enter__(self) -> FisherInformation:
        self._more_passes = 0
        return super().__enter__()

    def _summand(self, grad: Tensor) -> Tensor:
        return grad.float().square()

    def _settle(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Summary]:
        """Divide by the number of samples."""
        return average([total for total, _ in pairs], self.samples)
