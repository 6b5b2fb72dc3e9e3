"""AdaMerging: coefficients of task vectors, learned on unlabelled data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sta_kernels import ops
from sta_kernels.checkpoint.writer import atomic_write
from sta_kernels.errors import InputError
from sta_kernels.kernels import get_backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.formula import Formula, FormulaSource
from sta_kernels.merging import merge
from sta_kernels.methods.adamerging import Coefficients
from sta_kernels.methods.base import ModelData
from sta_kernels.methods.statistics import Sum
from sta_kernels.methods.subjects import Field
from sta_kernels.state_dict import StateDict, Tensors
from sta_kernels.state_dict_inputs import Inputs, choose_entries
from sta_kernels.taylor.gradients import restore_modes
from sta_kernels.taylor.samples import call


class AdaMerging:
    """Coefficients ``λ`` of ``θ = θ0 + Σ_i λ_i·τ_i`` that make predictions certain, by gradient descent.

    The objective is the entropy of the model's predictions on unlabelled batches, its mean over each task's batch,
    summed over the tasks (arXiv 2310.02575)::

        learner = AdaMerging(model, base, finetuned)
        learner.learn(loaders, steps=500)           # per task, batches of inputs
        learner.save("coefficients.json")           # for merge_method: adamerging
        merged = learner.merged()

    A step combines the parameters in one fused pass, runs the model forward and backward on one batch per task, and
    takes ``∂L/∂λ_i = ⟨∂L/∂θ, τ_i⟩`` of each tensor: no task vector is ever stored.

    Args:
        model: computes logits from a batch; its own parameters are neither read, where state dicts have them, nor
            changed. It is in eval mode during a step.
        base: state dict of the common base, θ0, on the model's device.
        finetuned: one state dict per task.
        heads: per task, what makes logits of the model's output; None: it gives logits itself.
        layerwise: a coefficient per task and tensor; False: per task.
        init: of all coefficients.
        clamp: use coefficients within [0, 1] only; there is no gradient beyond the bounds.
        lr: learning rate of Adam.
        exclude: glob patterns over names; entries that match stay the base's.

    Raises:
        InputError: state dicts that do not fit together, see :func:`sta_kernels.merge`; entries that the model does not
            have.
    """

    def __init__(
        self,
        model: nn.Module,
        base: Tensors,
        finetuned: Sequence[Tensors],
        *,
        heads: Sequence[Callable[[Any], Tensor]] | None = None,
        layerwise: bool = True,
        init: float = 0.3,
        clamp: bool = True,
        lr: float = 1e-3,
        exclude: Sequence[str] = (),
    ) -> None:
        if not finetuned:
            raise InputError("finetuned: at least one model is needed")
        if heads is not None and len(heads) != len(finetuned):
            raise InputError(f"heads: {len(heads)} given for {len(finetuned)} models")
        self.model = model
        self._base, self._finetuned, self._heads = base, list(finetuned), heads
        self._exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        self._clamp = clamp
        start = StateDict("base", base)
        models = tuple(StateDict(f"finetuned[{i}]", each) for i, each in enumerate(finetuned))
        inputs = Inputs(template=start, models=models, base=start, importances=(), target=None)
        self._device = inputs.device
        selection = choose_entries(inputs, self._exclude, ModelData())
        self._tensors = {
            name: (
                start.tensors[name],
                [model.tensors[str(selection.stored_name(model.tensors, name))] for model in models],
            )
            for name in selection.merged
        }
        known = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        unknown = [name for name in self._tensors if name not in known]
        if unknown:
            raise InputError(f"base: {unknown[0]!r} is no parameter or buffer of the model; exclude it")
        copied = (*selection.copied, *selection.excluded)
        self._rest = {name: start.tensors[name] for name in copied if name in known}
        # What the model ties follows the first name by itself.
        self._aliases = {
            alias: first
            for alias, first in selection.aliases.items()
            if alias in known and first in known and known[alias] is not known[first]
        }
        shape = (len(models), len(self._tensors)) if layerwise else (len(models),)
        self._raw = torch.full(shape, float(init), requires_grad=True)
        self._adam = torch.optim.Adam([self._raw], lr=lr)

    @property
    def coefficients(self) -> Tensor:
        """λ as it is used: float32 [N, tensors], in the order of the merged entries, or [N]."""
        raw = self._raw.detach()
        return raw.clamp(0.0, 1.0) if self._clamp else raw.clone()

    @property
    def table(self) -> Coefficients:
        """λ by name, as the method ``adamerging`` takes it."""
        values = self.coefficients
        if values.dim() == 1:
            return Coefficients.of(values.tolist())
        return Coefficients.of(tensors=dict(zip(self._tensors, values.T.tolist(), strict=True)))

    def step(self, batches: Sequence[Any]) -> float:
        """Take one step.

        Args:
            batches: one per task: a tensor; a tuple of positional arguments of the model; or a mapping of keyword
                arguments.

        Returns:
            The objective before the step: Σ over tasks of the mean entropy, in nats.

        Raises:
            InputError: another number of batches, or an objective that is not finite.
        """
        if len(batches) != len(self._finetuned):
            raise InputError(f"batches: {len(batches)} given for {len(self._finetuned)} models")
        weights = self._combined()
        with ExitStack() as undo:
            undo.callback(restore_modes, [(module, module.training) for module in self.model.modules()])
            self.model.eval()
            total = 0.0
            for task, batch in enumerate(batches):
                loss = self._entropy(task, batch, weights)
                total += loss.item()
                if not math.isfinite(total):
                    raise InputError(f"batches[{task}]: the entropy of the predictions is {total}")
                loss.backward()
        self._raw.grad = self._gradient(weights)
        self._adam.step()
        return total

    def learn(self, data: Sequence[Iterable[Any]], steps: int = 500) -> list[float]:
        """Take many steps.

        Args:
            data: per task, something that gives batches as :meth:`step` takes them, and is started again when it ends:
                a loader, or a list.
            steps: how many.

        Returns:
            The objective before each step.
        """
        streams = [_repeated(i, each) for i, each in enumerate(data)]
        return [self.step([next(stream) for stream in streams]) for _ in range(steps)]

    def merged(self) -> dict[str, Tensor]:
        """The merged state dict: what ``method="adamerging"`` makes of the coefficients."""
        return merge(self._base, self._finetuned, method="adamerging", coefficients=self.table, exclude=self._exclude)

    def save(self, path: str | Path) -> Path:
        """Write the coefficients as JSON and return the path, which a recipe names as ``coefficients``."""
        atomic_write(Path(path), self.table.to_json().encode())
        return Path(path)

    def _combined(self) -> dict[str, Tensor]:
        """θ of each merged entry, as a leaf that receives a gradient."""
        values = self.coefficients
        rows = values.T.tolist() if values.dim() == 2 else [values.tolist()] * len(self._tensors)
        return {
            name: ops.task_arithmetic(base, models, weight=row).requires_grad_()
            for row, (name, (base, models)) in zip(rows, self._tensors.items(), strict=True)
        }

    def _entropy(self, task: int, batch: Any, weights: dict[str, Tensor]) -> Tensor:
        """Mean entropy of the predictions on a task's batch."""
        given = {**self._rest, **weights}
        given.update((alias, given[first]) for alias, first in self._aliases.items())

        def run(*arguments: Any, **keywords: Any) -> Any:
            return functional_call(self.model, given, arguments, keywords)

        with torch.enable_grad():
            out = call(run, batch)
            logits = out if self._heads is None else self._heads[task](out)
            log_p = logits.log_softmax(-1, dtype=torch.float32)
            return -(log_p.exp() * log_p).sum(-1).mean()

    def _gradient(self, weights: dict[str, Tensor]) -> Tensor:
        """``⟨∂L/∂θ, τ_i⟩`` of each tensor, summed where a coefficient is shared, and 0 beyond the bounds."""
        dots = task_dots([(weights[name].grad, *operands) for name, operands in self._tensors.items()])
        gradient = torch.tensor(dots, dtype=torch.float64).T
        if not gradient.isfinite().all():
            raise InputError("the gradient of the entropy is not finite; half precision may have overflowed")
        if self._raw.dim() == 1:
            gradient = gradient.sum(dim=1)
        if self._clamp:
            gradient = gradient * ((self._raw >= 0) & (self._raw <= 1))
        return gradient.float()


def ties_selected(
    base: Tensors,
    finetuned: Sequence[Tensors],
    *,
    density: float = 0.2,
    scope: str = "model",
    exclude: Sequence[str] = (),
) -> list[dict[str, Tensor]]:
    """Each model with only those of its changes that TIES selects: what AdaMerging++ combines in place of the models.

    A change is kept where it is among the ``density`` greatest of its task, and has the sign that the sum of what is
    kept of all tasks has there::

        selected = ties_selected(base, finetuned)
        learner = AdaMerging(model, base, selected)

    The saved coefficients belong to these models, which recipes read once they are saved as any state dicts.

    Args:
        base: see :func:`sta_kernels.merge`.
        finetuned: one state dict per task.
        density: share of each task vector's entries that is kept.
        scope: what it is a share of: the ``model``, as in the paper's code, or each ``tensor``; see ``ties``.
        exclude: glob patterns over names; entries that match become the base's, as all that is not merged.

    Returns:
        State dicts with the base's names, tied as it ties them. A selected entry has the model's bits, any other the
        base's.

    Raises:
        InputError: see :func:`sta_kernels.merge`.
    """
    start = StateDict("base", base)
    models = tuple(StateDict(f"finetuned[{i}]", each) for i, each in enumerate(finetuned))
    exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)

    def changes(chosen: Sequence[Tensors]) -> dict[str, Tensor]:
        found = merge(
            base, chosen, method="ties", density=density, scope=scope, normalize=False, exclude=exclude,
            out_dtype=torch.float32,
        )  # fmt: skip
        # A kept change is seen in the sum, however small: the distance of two floats is never lost on the nearer one.
        return {name: (found[start.prefix + name] - tensor.float()).sign() for name, tensor in start.tensors.items()}

    elected = changes(finetuned)
    selection = choose_entries(
        Inputs(template=start, models=models, base=start, importances=(), target=None), exclude, ModelData()
    )
    selected = []
    for model, given in zip(models, finetuned, strict=True):
        own = changes([given])
        result = {name: tensor.clone() for name, tensor in start.tensors.items() if name not in selection.aliases}
        for name in selection.merged:
            stored = model.tensors[str(selection.stored_name(model.tensors, name))]
            kept = (own[name] != 0) & (own[name] == elected[name])
            result[name] = torch.where(kept, stored, start.tensors[name])
        selected.append({start.prefix + name: result[selection.aliases.get(name, name)] for name in start.tensors})
    return selected


def task_dots(tensors: Sequence[tuple[Tensor | None, Tensor, Sequence[Tensor]]]) -> list[list[float]]:
    """``Σ g·τ_i`` of each tensor and task, without forming τ_i; many tensors in one call.

    Args:
        tensors: of each the gradient g (None: zeros), θ0 and the θ_i; on one device.

    Returns:
        Per tensor, one number per task: products ``RN(g·RN(θ_i − θ0))`` in float32, added in float64 in the fixed order
        of tier B.
    """
    formula = Formula("scaled_sum", (1,))
    dots = [[0.0] * len(models) for _, _, models in tensors]
    places, sources = [], []
    for i, (gradient, base, models) in enumerate(tensors):
        if gradient is None or not gradient.numel():
            continue
        start, factor = Buffer.from_torch(base.detach()), Buffer.from_torch(gradient.detach())
        for task, model in enumerate(models):
            places.append((i, task))
            sources.append(FormulaSource(formula, (Buffer.from_torch(model.detach()),), start, (factor,)))
    if sources:
        backend = get_backend(device=str(tensors[0][1].device))
        sums = [Sum(Field(formula, (0,), importances=(0,)))] * len(sources)
        for (i, task), dot in zip(
            places, Sum.of_segments(sums, sources, backend, torch.get_num_threads()), strict=True
        ):
            dots[i][task] = dot
    return dots


def _repeated(task: int, data: Iterable[Any]) -> Iterator[Any]:
    """Its items, again and again."""
    while True:
        empty = True
        for batch in data:
            empty = False
            yield batch
        if empty:
            raise InputError(f"data[{task}]: no batch; give a list or a loader, which can be started again")
