"""Selections beyond the paper, each one merge of the same models from the same sums of gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import sta_kernels as sk
from sta_kernels.demo.recipes import FROZEN


@dataclass(frozen=True)
class Setting:
    """What a variant merges.

    Attributes:
        base: state dict of the pretrained model.
        finetuned: one per task.
        gradients: Σ|g| per trained entry and task, over 32 samples, at the fine-tuned weights.
    """

    base: dict[str, Tensor]
    finetuned: list[dict[str, Tensor]]
    gradients: list[dict[str, Tensor]]


@dataclass(frozen=True)
class Variant:
    """One merge.

    Attributes:
        name: of its rows.
        title: in tables.
        merge: from the setting and one of ``values`` to a state dict.
        values: to choose from on validation images; one: nothing to choose.
        needs: ``gradients``, ``sampled`` or ``task-free``: whose sums the setting holds.
    """

    name: str
    title: str
    merge: Callable[[Setting, Any], dict[str, Tensor]]
    values: tuple[Any, ...] = (None,)
    needs: str = "gradients"


def _lp_mean(setting: Setting, value: Any) -> dict[str, Tensor]:
    lp = [
        {name: tuned[name].abs() * total for name, total in sums.items()}
        for tuned, sums in zip(setting.finetuned, setting.gradients, strict=True)
    ]
    return sk.merge(setting.base, setting.finetuned, importances=lp, normalise="mean", exclude=FROZEN)


def _gradient_mean(setting: Setting, value: Any) -> dict[str, Tensor]:
    return sk.merge(setting.base, setting.finetuned, importances=setting.gradients, normalise="mean", exclude=FROZEN)


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("lp_mean", "LP, divided by the tensor's mean", _lp_mean),
        Variant("gradient_mean", "Σ|g|, divided by the tensor's mean", _gradient_mean),
        Variant("gradient_mean_sampled", "the same, labels drawn from the model", _gradient_mean, needs="sampled"),
        Variant("gradient_mean_noise", "the same, images of noise", _gradient_mean, needs="task-free"),
    )
}
