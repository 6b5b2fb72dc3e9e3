"""Whether an importance was made of the model that it is given for, as far as its file tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from sta_kernels.checkpoint import Checkpoint, TensorEntry
from sta_kernels.checkpoint.low_rank import READABLE, read_float32
from sta_kernels.checkpoint.sample import sample_of
from sta_kernels.engine.inputs import Inputs
from sta_kernels.errors import InputError


def strangers(inputs: Inputs) -> Iterator[str]:
    """What to say of importances that none of the models made.

    Raises:
        InputError: one was made of another model of the same recipe: two were swapped.
    """
    for model, importance in zip(inputs.models, inputs.importances, strict=True):
        metadata = None if importance is None else inputs.metadata(importance)
        if importance is None or metadata is None or not metadata.model_sample:
            continue
        names = list(inputs.checkpoints[importance].entries)
        if _sample(inputs, model, names) == metadata.model_sample:
            continue
        for other in dict.fromkeys(inputs.models):
            if other != model and _sample(inputs, other, names) == metadata.model_sample:
                raise InputError(
                    f"{inputs.label(importance)}: was made of {inputs.label(other)}, and is given for "
                    f"{inputs.label(model)}: are two importances swapped?"
                )
        yield (
            f"{inputs.label(importance)}: was not made of {inputs.label(model)} as it is stored: is it that of another "
            "model, or was the model changed, or rounded, since?"
        )


def _sample(inputs: Inputs, index: int, names: Sequence[str]) -> str | None:
    """Of a model's tensors of these names; None where it has others."""
    entries = inputs.entries(index)
    if not all(name in entries and entries[name].dtype in READABLE for name in names):
        return None
    sizes = {name: entries[name].size for name in names}
    return sample_of(sizes, partial(_values, inputs.checkpoints[index], entries))


def _values(
    checkpoint: Checkpoint, entries: Mapping[str, TensorEntry], name: str, first: int, count: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Of one of a checkpoint's tensors, which may be tied to another."""

    def read(entry: TensorEntry, start: int, view: Any) -> None:
        checkpoint.read_into(entry.name, start, view)

    return read_float32(read, entries[name], first, count)
