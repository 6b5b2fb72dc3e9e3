"""``sta`` as a method of mergekit 0.1.5, for those who stay with its command: ``mergekit-sta CONFIG OUT``.

mergekit finds no plugins by itself, so this command registers the method and then is ``mergekit-yaml``, flags and all.
A recipe's parameters are numbers there, so importances cannot be named: each model's is looked for beside it, as
``importance.safetensors`` (or sharded, with an index) in its folder.

``θ = θ0 + λ·Σ_i w_i·M_i ⊙ τ_i`` (arXiv 2411.16139, eq. 13–17), by the kernels of :func:`sta_kernels.ops.sta_merge`.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from mergekit.merge_methods.base import (
    BasePolicy,
    FunctionalGroupMergeMethod,
    InputContract,
    MergeMethodSpec,
    ParameterScope,
    ParameterSpec,
    TensorEntry,
    TensorGroup,
)
from mergekit.merge_methods.registry import register, registered_methods

from sta_kernels import ops
from sta_kernels.checkpoint import Checkpoint, open_checkpoint
from sta_kernels.errors import InputError

FILE_NAMES = ("importance.safetensors", "importance.safetensors.index.json")
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
_PARAMETERS = (
    ParameterSpec("weight", float, ParameterScope.NON_BASE, 1.0),
    ParameterSpec("p", float, ParameterScope.SHARED, 0.7, "quantile below which an entry is dropped"),
    ParameterSpec("keep", int | None, ParameterScope.SHARED, None, "entries kept at each position, instead of p"),
    ParameterSpec("amplitude", bool, ParameterScope.SHARED, False, "importance θ² (eq. 21): no importance files"),
    ParameterSpec("mean", bool, ParameterScope.SHARED, False, "normalise by the mean instead of the range"),
    ParameterSpec("lambda", float, ParameterScope.SHARED, 1.0),
)


def merge(group: TensorGroup, **parameters: Any) -> torch.Tensor:
    """STA on the tensors of one name.

    Args:
        group: the base and one tensor per model, in mergekit's dtype.
        **parameters: as declared: ``weight`` per model, ``p`` or ``keep``, ``amplitude``, ``mean``, ``lambda``.

    Raises:
        InputError: a model has no importance for a tensor that it has trained.
    """
    base, entries = group.base, group.non_base
    assert base is not None  # by the contract
    amplitude, keep = parameters["amplitude"], parameters["keep"]
    tensors = [entry.tensor for entry in entries]
    importances = None if amplitude else _importances(group)
    if importances is None and not amplitude:
        return base.tensor
    kind = "mean" if parameters["mean"] else "minmax"
    scored = [tensor.float().square() for tensor in tensors] if importances is None else importances
    return ops.sta_merge(
        base.tensor,
        tensors,
        importances,
        **({"p": parameters["p"]} if keep is None else {"keep": keep}),
        normaliser=ops.normaliser(scored, kind) if parameters["mean"] else None,
        measure="amp" if amplitude else "lp",
        weight=parameters["weight"].values_for(entries),
        lambda_=parameters["lambda"],
    )


def _importances(group: TensorGroup) -> list[torch.Tensor] | None:
    """One per model; None where no file has one and no model has trained the tensor."""
    name = group.metadata.name
    found = [_importance(entry, name, entry.tensor) for entry in group.non_base]
    missing = [entry for entry, importance in zip(group.non_base, found, strict=True) if importance is None]
    if not missing:
        return [importance for importance in found if importance is not None]
    untrained = all(torch.equal(entry.tensor, group.base.tensor) for entry in group.non_base)
    if len(missing) == len(found) and untrained:
        return None
    raise InputError(f"{missing[0].id}: no importance for {name!r}; compute it for all models, or use amplitude: true")


def _importance(entry: TensorEntry, name: str | None, like: torch.Tensor) -> torch.Tensor | None:
    checkpoint = _opened(str(entry.id))
    stored = checkpoint.entries.get(name or "")
    if stored is None:
        return None
    if tuple(stored.shape) != tuple(like.shape) or stored.dtype not in _DTYPES:
        raise InputError(f"{stored.file}: {name!r} is {stored.dtype} {list(stored.shape)}, not like its parameter")
    tensor = torch.empty(stored.shape, dtype=_DTYPES[stored.dtype])
    checkpoint.read_into(stored.name, 0, tensor.reshape(-1).view(torch.uint8).numpy().data)
    return tensor.to(like.device)


@functools.cache
def _opened(model: str) -> Checkpoint:
    folder = Path(model)
    for name in FILE_NAMES:
        if (folder / name).is_file():
            return open_checkpoint(folder / name)
    raise InputError(
        f"{model}: no {FILE_NAMES[0]} in its folder; put the importance of the model there (only local models can have "
        "one), or use amplitude: true"
    )


METHOD = FunctionalGroupMergeMethod(
    MergeMethodSpec(
        name="sta",
        pretty_name="Selective Task Arithmetic",
        reference_url="https://arxiv.org/abs/2411.16139",
        contract=InputContract(base=BasePolicy.REQUIRED, min_non_base=1),
        parameters=_PARAMETERS,
    ),
    merge,
)
"""The method, for mergekit's registry."""


def install() -> None:
    """Make ``merge_method: sta`` known to mergekit in this process; doing it twice does no harm."""
    if all(method.spec.name != METHOD.spec.name for method in registered_methods()):
        register(METHOD)


def main() -> None:
    """``mergekit-yaml`` that knows ``sta``."""
    from mergekit.scripts.run_yaml import main as run_yaml

    install()
    run_yaml()


if __name__ == "__main__":
    main()
