"""Gram matrices of the inputs of linear layers, gathered while a caller's own loop runs the model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from sta_kernels.errors import InputError, warn_caller
from sta_kernels.taylor.arithmetic import summarise
from sta_kernels.taylor.gradients import restore_modes
from sta_kernels.taylor.result import Importance, origin_of
from sta_kernels.taylor.sharded import is_sharded

GRAM_DTYPES = (torch.float32, torch.float64)


class _Inputs:
    """The sum of XᵀX over the rows that a weight has seen."""

    def __init__(self, weight: Tensor, dtype: torch.dtype, device: torch.device | None) -> None:
        self.weight = weight
        self.rows = 0
        self.total: Tensor | None = None
        self._dtype = dtype
        self._device = device

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """Take in the rows of one call, [..., in]."""
        size = self.weight.shape[1]
        rows = x.detach().reshape(-1, size)
        rows = rows.to(self._device or rows.device, self._dtype)
        if self.total is None:
            self.total = torch.zeros(size, size, dtype=self._dtype, device=rows.device)
        self.total.addmm_(rows.T, rows.to(self.total.device))
        self.rows += len(rows)


class GramMatrices:
    """Gram matrices ``G = XᵀX/rows`` of the inputs X of every linear layer.

    What ``method="regmean"`` solves with (arXiv 2212.09849)::

        with GramMatrices(model) as grams:
            for x in inputs:                        # batches of any size
                model(x)
        grams.save("gram.safetensors")

    A row is one position of one sample: one token, say. What the loop shows counts, padding as well. Inside the block
    the model is in eval mode; leaving it, also by an exception, removes the hooks and puts the modes back. No gradient
    is needed: run the loop under ``torch.no_grad()``.

    Hooked are the forward calls of ``torch.nn.Linear`` and its subclasses. ``torch.nn.MultiheadAttention`` never calls
    its ``out_proj``, but hands the weight to a function, and its ``in_proj_weight`` belongs to no layer: both have no
    Gram matrix, and RegMean averages them. A warning names the layers that no input reached. Layers that share a weight
    have one Gram matrix, of all their inputs, under each of its names.

    Args:
        model: the fine-tuned model.
        dtype: of sums and result, float32 or float64.
        device: of the sums; None keeps each where the inputs are.

    Raises:
        TypeError: the model is no ``torch.nn.Module``.
        InputError: an unknown dtype. On entering: no linear layer, or one whose weight is sharded.
    """

    def __init__(
        self, model: nn.Module, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got a {type(model).__name__}")
        if dtype not in GRAM_DTYPES:
            raise InputError(f"Gram matrices are float32 or float64, not {dtype}")
        self.model = model
        self._dtype = dtype
        self._device = None if device is None else torch.device(device)
        self._undo: ExitStack | None = None
        self._watched: dict[str, _Inputs] = {}
        self._result: Importance | None = None

    @property
    def result(self) -> Importance:
        """The finished matrices by the names of the weights; ``samples`` is the number of rows of the layer with most.

        Raises:
            InputError: the block has not been left, was left by an exception, or no input reached a linear layer.
        """
        if self._result is None:
            raise InputError("there are no Gram matrices before the with block has been left without an exception")
        if not self._result:
            raise InputError("no input reached a linear layer inside the with block; run the model there")
        return self._result

    def state_dict(self) -> dict[str, Tensor]:
        """Name of the weight to Gram matrix, [in, in]; tied names share one tensor."""
        return self.result.state_dict()

    def save(self, path: str | Path, *, shard_size: int | None = None) -> Path:
        """Write them to disk and return the path that a recipe names as ``importance``; see :meth:`Importance.save`."""
        return self.result.save(path, shard_size=shard_size)

    def __enter__(self) -> GramMatrices:
        if self._undo is not None:
            raise InputError("this GramMatrices is already in use; make another one")
        self._result = None
        watched = self._watch()
        with ExitStack() as undo:
            undo.callback(restore_modes, [(module, module.training) for module in self.model.modules()])
            self.model.eval()
            by_weight = {item.weight: item for item in watched.values()}
            for module in self.model.modules():
                if isinstance(module, nn.Linear):
                    handle = module.register_forward_pre_hook(_hook(by_weight[module.weight]), with_kwargs=True)
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
        with undo:
            if kind is None:
                self._result = _finish(watched)

    def _watch(self) -> dict[str, _Inputs]:
        """One entry per name of a linear layer's weight; layers that share one share theirs."""
        items: dict[Tensor, _Inputs] = {}
        watched: dict[str, _Inputs] = {}
        for prefix, module in self.model.named_modules(remove_duplicate=False):
            if not isinstance(module, nn.Linear):
                continue
            name = f"{prefix}.weight" if prefix else "weight"
            if is_sharded(module.weight):
                raise InputError(f"the weight {name} is sharded; gather Gram matrices on a model that is whole")
            if module.weight not in items:
                items[module.weight] = _Inputs(module.weight, self._dtype, self._device)
            watched[name] = items[module.weight]
        if not watched:
            raise InputError("the model has no torch.nn.Linear, whose inputs Gram matrices are of")
        return watched


def _hook(item: _Inputs) -> Callable[..., None]:
    def see(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        item.add(arguments[0] if arguments else keywords["input"])

    return see


def _finish(watched: dict[str, _Inputs]) -> Importance:
    """Divide by the rows; what no input reached is left out, and said."""
    missed = [name for name, item in watched.items() if item.total is None]
    if missed and len(missed) < len(watched):
        more = f" (and {len(missed) - 1} more)" if len(missed) > 1 else ""
        warn_caller(
            f"no input reached {missed[0]}{more}: no Gram matrix, and RegMean averages the weight; "
            "torch.nn.MultiheadAttention computes with its out_proj without calling it"
        )
    finished: dict[int, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    for name, item in watched.items():
        if item.total is not None:
            if id(item) not in finished:
                finished[id(item)] = item.total.div_(item.rows or 1)
            tensors[name] = finished[id(item)]
    statistics = {key: summarise(total) for key, total in finished.items()}
    return Importance(
        tensors,
        {name: statistics[id(watched[name])] for name in tensors},
        measure="gram",
        samples=max((watched[name].rows for name in tensors), default=0),
        **origin_of({name: watched[name].weight for name in tensors}),
    )
