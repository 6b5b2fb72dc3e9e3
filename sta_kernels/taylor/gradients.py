"""Sums over samples of what each one's gradients are, while a caller's own loop runs: one hook per parameter."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from sta_kernels.errors import InputError, warn_caller
from sta_kernels.kernels.buffers import torch_dtype
from sta_kernels.methods.statistics import Summary
from sta_kernels.taylor.arithmetic import dense
from sta_kernels.taylor.passes import BackwardPasses
from sta_kernels.taylor.pending import PendingGradients
from sta_kernels.taylor.result import Importance, origin_of
from sta_kernels.taylor.sharded import is_sharded, local, problem, reduced, zeros

_Sums = TypeVar("_Sums", bound="GradientSums")
ACCUMULATOR_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(eq=False)
class _Watched:
    """A trainable parameter, under the first of its names, and its sum."""

    name: str
    param: nn.Parameter
    total: Tensor
    shard: Tensor  # what of the total this process holds
    version: int = 0


class GradientSums(ABC):
    """What each sample's gradients are, summed over the samples of a caller's own loop; a context manager.

    A sample is one backward pass. Inside the block the model is in eval mode, and ``.grad`` is freed as soon as a
    parameter's gradient is complete; leaving it, also by an exception, puts back modes and earlier ``.grad`` and
    removes the hooks. See :class:`sta_kernels.TaylorImportance`, which is one of these.

    Args:
        model: whose trainable parameters are watched.
        measure: what the result calls itself.
        dtype: of sums and result, float32 or bfloat16.
        device: of the sums; None keeps each beside its parameter.

    Raises:
        TypeError: the model is no ``torch.nn.Module``.
        InputError: an unknown dtype.
    """

    reads_gradients = True

    def __init__(self, model: nn.Module, measure: str, dtype: torch.dtype, device: torch.device | str | None) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got a {type(model).__name__}")
        if dtype not in ACCUMULATOR_DTYPES:
            raise InputError(f"accumulators are float32 or bfloat16, not {dtype}")
        self.model = model
        self.measure = measure
        self._dtype = dtype
        self._device = None if device is None else torch.device(device)
        self._pending = PendingGradients()
        self._passes = BackwardPasses(self._pending.flush)
        self._watched: dict[str, _Watched] = {}
        self._undo: ExitStack | None = None
        self._result: Importance | None = None

    def _summand(self, grad: Tensor) -> Tensor:
        """What is summed, but for its sign, of one sample's dense gradient."""
        return grad

    @abstractmethod
    def _settle(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Summary]:
        """Turn (sum, parameter) into results, in place of the sums."""

    @property
    def samples(self) -> int:
        """Samples counted so far; 0 where no gradients are read."""
        return self._passes.count

    @property
    def result(self) -> Importance:
        """The finished importance.

        Raises:
            InputError: the block has not been left, was left by an exception, or no backward pass reached a parameter.
        """
        if self._result is None:
            raise InputError("there is no importance before the with block has been left without an exception")
        if self.reads_gradients and self.samples == 0:
            raise InputError(
                "no backward pass reached a trainable parameter inside the with block, so there is no importance; "
                "call loss.backward() there, once per sample"
            )
        return self._result

    def state_dict(self) -> dict[str, Tensor]:
        """Name to importance, in the order of ``model.named_parameters()``; tied names share one tensor."""
        return self.result.state_dict()

    def save(self, path: str | Path, *, shard_size: int | None = None) -> Path:
        """Write the importance to disk and return the path that a recipe names; see :meth:`Importance.save`."""
        return self.result.save(path, shard_size=shard_size)

    def __enter__(self: _Sums) -> _Sums:
        if self._undo is not None:
            raise InputError(f"this {type(self).__name__} is already in use; make another one")
        self._pending = PendingGradients()
        self._passes = BackwardPasses(self._pending.flush)
        self._result = None
        watched = self._watch()  # allocates, hence may fail: before the model is touched
        with ExitStack() as undo:
            undo.callback(restore_modes, [(module, module.training) for module in self.model.modules()])
            self.model.eval()
            for item in dict.fromkeys(watched.values()):
                undo.callback(setattr, item.param, "grad", item.param.grad)
                item.param.grad = None
                item.version = item.param._version
                if self.reads_gradients:
                    handle = item.param.register_post_accumulate_grad_hook(self._hook(item))
                    undo.callback(handle.remove)
            self._watched = watched
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        undo, self._undo = self._undo, None
        watched, self._watched = self._watched, {}
        if undo is None:
            return
        with undo:  # modes go back after θ was read: merged adapters, for one, change their weights with the mode
            if kind is None:
                self._result = self._finish(watched)

    def _watch(self) -> dict[str, _Watched]:
        """One entry per name of a trainable parameter; tied names share theirs."""
        items: dict[nn.Parameter, _Watched] = {}
        watched: dict[str, _Watched] = {}
        for name, param in self.model.named_parameters(remove_duplicate=False):
            if not param.requires_grad:
                continue
            if param not in items:
                _check_readable(name, param, self._device)
                total = zeros(param, self._dtype, self._device)
                items[param] = _Watched(name, param, total, local(total))
            watched[name] = items[param]
        if not watched:
            raise InputError("the model has no trainable parameter; importance is taken where requires_grad is True")
        return watched

    def _hook(self, item: _Watched) -> Callable[[Tensor], None]:
        def take_gradient(param: Tensor) -> None:
            self._passes.enter()
            grad, param.grad = param.grad, None
            if grad is None:
                self._passes.refuse(
                    f"another hook took the gradient of {item.name} away before it could be read; have only one "
                    "TaylorImportance, and no optimizer that steps inside backward, on the model"
                )
            else:
                self._pending.add(item.shard, self._summand(dense(reduced(item.name, param, grad))))

        return take_gradient

    def _finish(self, watched: dict[str, _Watched]) -> Importance:
        self._passes.check()
        items = list(dict.fromkeys(watched.values()))
        for item in items:
            if item.param._version != item.version:
                raise InputError(
                    f"the parameter {item.name} changed inside the with block; importance is taken at one θ, so leave "
                    "the optimizer out of the loop"
                )
        finished = self._settle([(item.total, item.param) for item in items])
        summaries = dict(zip(items, finished, strict=True))
        _warn_if_not_finite({item.name: summary for item, summary in summaries.items()})
        return Importance(
            {name: item.total for name, item in watched.items()},
            {name: summaries[item] for name, item in watched.items()},
            measure=self.measure,
            samples=self.samples,
            **origin_of({name: item.param for name, item in watched.items()}),
        )


def _check_readable(name: str, param: nn.Parameter, device: torch.device | None) -> None:
    if is_sharded(param):
        if (reason := problem(param, device)) is not None:
            raise InputError(f"the parameter {name} {reason}")
    elif is_traceable_wrapper_subclass(param):
        raise InputError(
            f"the parameter {name} is a {type(param).__name__}, whose elements lie elsewhere (quantised, say); turn "
            "the model into plain tensors first"
        )
    if param.is_meta:
        raise InputError(f"the parameter {name} is on the meta device and has no elements; load the model first")
    try:
        torch_dtype(param.dtype)
    except TypeError as error:
        raise InputError(f"the parameter {name}: {error}") from None


def restore_modes(modes: list[tuple[nn.Module, bool]]) -> None:
    """Put each module back into the mode it was in."""
    for module, training in modes:  # parents first: train() also sets the children, which are put right after it
        if module.training != training:
            module.train(training)


def _warn_if_not_finite(statistics: dict[str, Summary]) -> None:
    bad = [name for name, summary in statistics.items() if not math.isfinite(summary.mean)]
    if bad:
        warn_caller(
            f"the importance of {bad[0]} holds NaN or infinity ({len(bad)} of {len(statistics)} tensors do), and no "
            "merge will take it; a gradient overflowed, often in float16",
            RuntimeWarning,
        )
