"""What a recipe says of the models, and of the layers that it takes from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sta_kernels.recipe.values import Setting

REST = ("default", "text_decoder", "shared")
"""Modules, by mergekit's names, of all that belongs to no other; alone, each is the whole model."""


@dataclass(frozen=True)
class ModelSpec:
    """One model of a recipe.

    Attributes:
        model: existing path: as written, or the snapshot folder of a hub id.
        importance: path of its importance file or folder, or None.
        parameters: its own values, by the parameter's Python name.
        name: as the recipe names it.
        where: source, line and key, for messages.
    """

    model: str
    importance: str | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    name: str = ""
    where: str = ""


@dataclass(frozen=True)
class Source:
    """Layers that a slice takes from one model.

    Attributes:
        model: index of the model in the recipe.
        start: first layer.
        parameters: values of this source alone.
        where: source, line and key, for messages.
    """

    model: int
    start: int
    parameters: Mapping[str, Setting]
    where: str


@dataclass(frozen=True)
class Slice:
    """Consecutive layers of the result, each merged of one layer per source.

    Attributes:
        sources: in the recipe's order; the base is not among them where the method merges differences from it.
        layers: how many; None: all, and whatever else its module has.
        base_start: first layer of the base, where the method reads it.
        parameters: values of this slice alone.
        where: source, line and key, for messages.
        base_where: the same of the base.
    """

    sources: tuple[Source, ...]
    layers: int | None
    base_start: int | None
    parameters: Mapping[str, Setting]
    where: str
    base_where: str = ""


@dataclass(frozen=True)
class Module:
    """A part of a model, such as one of its towers, that is merged by itself.

    Attributes:
        name: which part.
        slices: its layers in the result, bottom up; one, of all layers, where it takes whole models.
        where: source, line and key, for messages.
    """

    name: str
    slices: tuple[Slice, ...]
    where: str
