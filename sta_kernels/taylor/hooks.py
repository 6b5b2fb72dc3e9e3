"""Taylor importance while a caller's own loop runs: one hook per parameter, one accumulator, one finishing pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sta_kernels.errors import InputError
from sta_kernels.kernels.buffers import MEASURES
from sta_kernels.methods.statistics import Summary
from sta_kernels.taylor.arithmetic import average, finish
from sta_kernels.taylor.gradients import GradientSums

GRADIENT = "gradient"


class TaylorImportance(GradientSums):
    """Importance of every trainable parameter of a fine-tuned model, from the gradients of a caller's own loop.

    ``I = Σ_j |θ · g_j|`` over samples j (``lp``, eq. 12), computed as ``|θ| · Σ_j |g_j|``; ``θ²`` (``amp``, eq. 21);
    ``lp · θ²`` (``lp_amp``, eq. 22); STA paper, arXiv 2411.16139. ``gradient`` is no importance but the mean of |g_j|,
    which TATR (arXiv 2501.15065) takes at the base::

        with TaylorImportance(model) as importance:
            for x, y in samples:                    # ONE sample per backward
                loss_fn(model(x), y).backward()
        importance.state_dict()

    **One sample per backward is the caller's duty.** The loss of a batch gives |Σ g_j| instead of Σ |g_j|, which is
    another and a wrong importance, and nothing in the gradients shows it: a batched loss cannot be detected here.
    :func:`sta_kernels.importance` cuts batches into samples and is right by construction.

    A sample is one backward pass, from its first gradient to its end, that reaches a trainable parameter. Two passes
    for one sample (two losses, one after the other) count as two; add the losses instead. Gradients taken with
    ``torch.autograd.grad`` reach no hook and do not count. A pass inside another (reentrant checkpointing) is refused,
    and so is the result after one that failed half-way.

    Inside the block the model is in eval mode (dropout off, running statistics untouched; call ``train()`` on a module
    whose backward needs it), and ``.grad`` is freed as soon as a parameter's gradient is complete, so that the peak is
    the model, one accumulator and one layer's gradient; small ones, 4 MiB at most, wait to be added up together.
    Leaving the block, also by an exception, removes the hooks and puts back each module's mode and each earlier
    ``.grad``.

    A tied parameter counts once, the gradients of all its uses summed before the absolute value, and appears under
    each of its names. A parameter that no sample reaches has importance 0; a frozen one is absent. ``amp`` reads no
    gradients, so its block may be empty.

    Accumulators lie on the device of their parameters, and |g| is added there, on the stream of the backward pass. Of a
    DTensor parameter (FSDP2, tensor parallelism) each process accumulates its own shard, and the importance is a
    DTensor too; every process must run the same samples, enter and leave the block, and call ``save``, which writes in
    the first one. A gradient whose parts lie in several processes is summed before the absolute value.

    Args:
        model: the fine-tuned model, θ (the base, for ``gradient``); trainable parameters in float32, bfloat16, float16
            or float64.
        measure: "lp", "amp", "lp_amp" or "gradient".
        dtype: of accumulator and importance, float32 or bfloat16. A bfloat16 sum takes half the memory, but has 8 bits
            and no longer grows once it is some 256 times what is added.
        device: of the accumulators; None keeps each beside its parameter, "cpu" offloads them (not those of DTensors).

    Raises:
        TypeError: the model is no ``torch.nn.Module``.
        InputError: an unknown measure or dtype. On entering: no trainable parameter, or one that no kernel reads
            (complex, quantised, on the meta device). From the loop or on leaving: a pass inside another, a parameter
            that changed, a gradient that another hook took away. After any of these the model is as it was found.

    Numerics:
        S = RN(S + |g_j|) in sample order, then RN(|θ|·S), and for lp_amp RN(that · RN(θ·θ)), all in float32. Other
        dtypes are converted on reading; a bfloat16 accumulator is rounded (to nearest even) at each sample.
    """

    def __init__(
        self,
        model: nn.Module,
        measure: str = "lp",
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(model, measure, dtype, device)
        if measure not in (*MEASURES, GRADIENT):
            raise InputError(f"unknown measure {measure!r}; known: {', '.join((*MEASURES, GRADIENT))}")
        self.reads_gradients = measure != "amp"

    def _settle(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Summary]:
        """Multiply by |θ| and θ², or divide by the number of samples."""
        if self.measure == GRADIENT:
            return average([total for total, _ in pairs], self.samples)
        return finish(pairs, self.measure)
