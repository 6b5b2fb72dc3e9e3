"""Importance done right by construction: batches cut into samples, one backward pass for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sta_kernels.errors import InputError
from sta_kernels.taylor.hooks import TaylorImportance
from sta_kernels.taylor.result import Importance

LossFunction = Callable[[Any, Any], Tensor]


def importance(
    model: nn.Module,
    samples: Iterable[Any] = (),
    loss_fn: LossFunction | None = None,
    *,
    measure: str = "lp",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Importance:
    """Importance of a fine-tuned model's trainable parameters on samples of its task (eq. 10–12, 21, 22).

    ``I = |θ| · Σ_j |∂loss_j/∂θ|`` (``lp``), ``θ²`` (``amp``), ``lp · θ²`` (``lp_amp``); the paper takes 32 training
    samples. ``gradient`` is the mean of |∂loss_j/∂θ|, for TATR with the base as the model. Every sample has a backward
    pass of its own: a loss over a batch would give |Σ g_j| instead of Σ |g_j|, and no gradient shows the difference.
    The model is in eval mode meanwhile and is left as it was found; deterministic algorithms are used where torch has
    them.

    Args:
        model: the fine-tuned model with its task's head, θ.
        samples: pairs (input, target), as a loader or a dataset yields them. The first dimension of every tensor counts
            samples: a pair of [B, …] and [B, …] is cut into B pairs of [1, …]. A pair whose target is a number or a
            tensor without dimensions is one item of a dataset, and gets that dimension. An input may be a tuple or a
            mapping of tensors, passed on as positional or keyword arguments. A mapping in place of a pair (a
            tokenizer's batch) is both: ``model(**sample)``, and the target.
        loss_fn: ``loss_fn(model(input), target)``, a scalar; called on one sample at a time.
        measure: "lp", "amp", "lp_amp" or "gradient"; "amp" needs neither samples nor loss_fn, and does not read them.
        dtype: of accumulator and importance, float32 or bfloat16; as :class:`TaylorImportance`.
        device: of the accumulators; None keeps each beside its parameter.

    Returns:
        A mapping of names to tensors, which also has ``samples``, ``statistics``, ``state_dict()`` and ``save(path)``.

    Raises:
        InputError: no samples or loss_fn where gradients are needed; a sample that cannot be cut, with its number and
            shapes; and what :class:`TaylorImportance` raises.
    """
    context = TaylorImportance(model, measure, dtype=dtype, device=device)
    if measure != "amp" and loss_fn is None:
        raise InputError(f"the measure {measure} needs samples and a loss_fn; only amp is read off the weights alone")
    with context, _deterministic_algorithms(), torch.enable_grad():
        if loss_fn is not None and measure != "amp":
            for inputs, target in single_samples(samples):
                loss_fn(call(model, inputs), target).backward()
    return context.result


def single_samples(samples: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Cut loader batches, or wrap dataset items, into pairs (input, target) with one sample each.

    Raises:
        InputError: a sample that is neither pair nor mapping, holds no tensor, or whose tensors disagree about the
            number of samples.
    """
    for number, sample in enumerate(samples):
        whole = isinstance(sample, Mapping)
        if not whole and not (isinstance(sample, (tuple, list)) and len(sample) == 2):
            raise InputError(
                f"sample {number}: a pair (input, target) or a mapping is expected, not {_describe(sample)}; "
                'for instance [(inputs, targets)], or [{"input_ids": ids, "labels": ids}] with '
                "loss_fn=lambda out, batch: out.loss"
            )
        if not whole and _is_scalar(sample[1]):
            sample = _map((sample[0], torch.as_tensor(sample[1])), lambda tensor: tensor[None])
        shapes = [list(tensor.shape) for tensor in _tensors(sample)]
        if not shapes or [] in shapes or len({shape[0] for shape in shapes}) > 1:
            raise InputError(
                f"sample {number}: the first dimension of every tensor counts samples, but the shapes are {shapes}; "
                "give one sample the leading dimension 1: tensor[None]"
            )
        for index in range(shapes[0][0]):
            piece = _map(sample, partial(_slice, index=index))
            yield (piece, piece) if whole else piece


@contextmanager
def _deterministic_algorithms() -> Iterator[None]:
    """Deterministic backward passes where torch has them; a stricter setting of the caller's stands."""
    if torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
        yield
        return
    enabled = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=enabled)


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """Give a model positional or keyword arguments, or one."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple):
        return model(*inputs)
    return model(inputs)


def _map(value: Any, on_tensor: Callable[[Tensor], Tensor]) -> Any:
    """The same nesting of tuples, lists and mappings with every tensor replaced; anything else as it is."""
    if isinstance(value, Tensor):
        return on_tensor(value)
    if isinstance(value, Mapping):
        return {key: _map(item, on_tensor) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_map(item, on_tensor) for item in value)
    return value


def _slice(tensor: Tensor, index: int) -> Tensor:
    return tensor[index : index + 1]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, tuple, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (bool, int, float)) or (isinstance(value, Tensor) and value.dim() == 0)


def _describe(value: Any) -> str:
    size = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
    return f"a {type(value).__name__}{size}"
