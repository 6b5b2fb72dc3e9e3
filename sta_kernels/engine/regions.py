"""Which tensors of which input make up a tensor of the result: whole models under their own names, or slices of layers.

The planner sees a region as if it were a set of checkpoints of its own, all under the names of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial

from sta_kernels.checkpoint import ImportanceMetadata, TensorEntry
from sta_kernels.engine.inputs import Inputs
from sta_kernels.engine.jobs import Operand
from sta_kernels.engine.modules import owner_of
from sta_kernels.errors import InputError
from sta_kernels.methods.selection import check_patterns, check_split, matches
from sta_kernels.methods.statistics import Summary
from sta_kernels.recipe import Recipe, relative_depths
from sta_kernels.recipe.depth import depth_of, layer_counts, split_layer
from sta_kernels.recipe.models import Slice

_FIRST = ("emb", "wte", "wpe", "rotary", "relative_pe", "pos_", "patch", "conv", "_pre", "pre_norm", "pre_layer",
          "cls_token", "class_token", "register_token", "mask_token", "shared", "slopes")  # fmt: skip
"""Parts of names of what stands before the first layer; everything else outside layers stands after the last."""
_NOT_FIRST = ("embed_out",)


@dataclass(frozen=True)
class _View:
    """Tensors of one input, under the names of the result.

    Attributes:
        input: index of the input.
        entries: by name in the result; an entry's own name is the stored one.
        stored: entries but for tied names.
        aliases: tied name to the name that it stands for.
        names: by name in the result, what the input calls it.
    """

    input: int
    entries: Mapping[str, TensorEntry]
    stored: Mapping[str, TensorEntry]
    aliases: Mapping[str, str]
    names: Mapping[str, str]


class Region:
    """A part of the result that is merged by one recipe; inputs are counted anew in it.

    Attributes:
        recipe: of the part: a slice's own values are among its parameters.
        tasks: index among the whole recipe's models, per model.
        base: index of the base, or None.
        target: index of the target, or None.
        models: index per model.
        importances: index per model, or None where it has none.
        template: index of what the part takes names, dtypes and copied entries from.
    """

    def __init__(
        self,
        inputs: Inputs,
        recipe: Recipe,
        views: Sequence[_View],
        *,
        tasks: tuple[int, ...],
        base: int | None,
        target: int | None,
        models: Sequence[int],
        importances: Sequence[int | None],
        depths: Mapping[str, Fraction] | None = None,
    ) -> None:
        self._inputs = inputs
        self._views = views
        self._given_depths = depths
        self.recipe = recipe
        self.tasks = tasks
        self.base = base
        self.target = target
        self.models = list(models)
        self.importances = list(importances)
        self.template = next(index for index in (target, base, self.models[0]) if index is not None)

    @cached_property
    def depths(self) -> Mapping[str, Fraction]:
        """Relative depth per tensor."""
        return relative_depths(self.entries(self.template)) if self._given_depths is None else self._given_depths

    def label(self, index: int) -> str:
        """What errors call an input: its path."""
        return self._inputs.label(self._views[index].input)

    def entries(self, index: int) -> Mapping[str, TensorEntry]:
        """Entries by name in the result, tied names among them."""
        return self._views[index].entries

    def stored(self, index: int) -> Mapping[str, TensorEntry]:
        """Entries but for tied names."""
        return self._views[index].stored

    def aliases(self, index: int) -> Mapping[str, str]:
        """Tied name to the name that it stands for."""
        return self._views[index].aliases

    def tied_heads(self, index: int) -> Mapping[str, str]:
        """Heads that an input leaves out because they are its embedding, and that embedding."""
        return self._inputs.tied_heads(self._views[index].input)

    def without_foreign_aliases(self, index: int, names: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
        """Entries, but for tied names outside ``names`` whose tensor is inside: a tied head that one file lists."""
        groups: dict[str, list[str]] = {}
        for alias, first in self.aliases(index).items():
            groups.setdefault(first, [first]).append(alias)
        foreign = {
            name
            for group in groups.values()
            if any(member in names for member in group)
            for name in group
            if name not in names
        }
        return {name: entry for name, entry in self.entries(index).items() if name not in foreign}

    @property
    def names(self) -> frozenset[str]:
        """What patterns of ``exclude`` may match: names of the result, and those that only a model or the base has."""
        template = self.entries(self.template)
        read = {index for index in (self.base, *self.models) if index is not None}
        return frozenset(template).union(*(self.without_foreign_aliases(index, template) for index in read))

    def metadata(self, index: int) -> ImportanceMetadata | None:
        """What an importance file says of itself."""
        return self._inputs.metadata(self._views[index].input)

    def summary(self, index: int, stored: str) -> Summary | None:
        """Range and mean of an importance tensor, by its stored name, where its file carries them."""
        return self._inputs.summary(self._views[index].input, stored)

    def operand(self, role: str, index: int, name: str) -> Operand:
        """A tensor by its name in the result."""
        entry = self._views[index].entries[name]
        return Operand(role, self._views[index].input, entry.name, entry.dtype)

    def input_names(self, name: str) -> tuple[str, ...]:
        """What each model calls a tensor; its name in the result where a model has none."""
        return tuple(self._views[index].names.get(name, name) for index in self.models)


def regions(recipe: Recipe, inputs: Inputs) -> Iterator[Region]:
    """The parts of the result: one of whole models, or what stands before the layers, each slice, and what follows.

    Of several modules, these are the parts of each.

    Raises:
        InputError: slices of a model whose layers cannot be told, or that has too few of them; modules that are no
            parts of the model, or not all of it; a pattern of the recipe that matches nothing.
    """
    if not recipe.parts:
        views = [_whole(inputs, index) for index in range(len(inputs.checkpoints))]
        yield Region(
            inputs, recipe, views, tasks=tuple(range(len(inputs.models))), base=inputs.base, target=inputs.target,
            models=inputs.models, importances=inputs.importances,
        )  # fmt: skip
        return
    found = [region for stacks in _stacks(recipe, inputs) for region in stacks.regions()]
    check_patterns("exclude", recipe.exclude, {name for region in found for name in region.names})
    check_split(recipe.split, [name for region in found for name in region.entries(region.template)])
    yield from found


def _whole(inputs: Inputs, index: int) -> _View:
    entries = inputs.entries(index)
    return _View(index, entries, inputs.checkpoints[index].entries, inputs.aliases(index), {n: n for n in entries})


def _stacks(recipe: Recipe, inputs: Inputs) -> Iterator[_Stack]:
    """What is cut into slices: the model, or each of its modules."""
    if not recipe.modules:
        yield _Stack(recipe, inputs, recipe.slices)
        return
    tied = inputs.aliases(inputs.template)
    names = [name for name in inputs.entries(inputs.template) if name not in tied]
    owner = owner_of(recipe.modules, names, inputs.label(inputs.template))
    for module in recipe.modules:
        yield _Stack(recipe, inputs, module.slices, partial(_is_owned, owner, module.name), module.where)


def _is_owned(owner: Callable[[str], str | None], module: str, name: str) -> bool:
    return owner(name) == module


class _Stack:
    """Layers of all inputs, by number, and what stands around them.

    Args:
        recipe: of the merge.
        inputs: of the recipe.
        slices: of these layers.
        owns: whether a tensor is meant, by its name.
        where: what says so, for messages.
    """

    def __init__(
        self,
        recipe: Recipe,
        inputs: Inputs,
        slices: Sequence[Slice],
        owns: Callable[[str], bool] = lambda name: True,
        where: str = "",
    ) -> None:
        self._recipe = recipe
        self._inputs = inputs
        self._slices = slices
        self._owns = owns
        # A head that is tied to the embedding goes with it, where one checkpoint names what is first and last.
        first, last = (self._template(part) for part in (slices[0], slices[-1]))
        self._tied = inputs.aliases(first) if first == last else {}
        counts = layer_counts(self._names(inputs.template))
        if len(counts) != 1 and slices[0].layers is not None:
            listed = ", ".join(map(repr, counts)) or "none"
            raise InputError(
                f"{where or inputs.label(inputs.template)}: slices need a model with one stack of layers, or one of "
                f"its `modules`, numbered between dots in its tensors' names; stacks found: {listed}"
            )
        self._stack = next(iter(counts), None)

    def _names(self, index: int) -> list[str]:
        """Tensors that are meant, tied names with the tensor that they stand for."""
        tied = self._inputs.aliases(index)
        return [name for name in self._inputs.entries(index) if self._owns(tied.get(name, name))]

    def regions(self) -> Iterator[Region]:
        slices = self._slices
        if slices[0].layers is None:
            yield self._region(slices[0], lambda index, *_: {name: name for name in self._names(index)})
            return
        yield from self._outside(slices[0], _is_first)
        start = 0
        for part in slices:
            assert part.layers is not None  # the only slice of a module otherwise
            yield self._layers(part, start, part.layers)
            start += part.layers
        yield from self._outside(slices[-1], lambda name: not _is_first(name))

    def _template(self, part: Slice) -> int:
        """The input that a slice takes names and dtypes from."""
        base = None if part.base_start is None else self._inputs.base
        return self._inputs.models[part.sources[0].model] if base is None else base

    def _outside(self, part: Slice, wanted: Callable[[str], bool]) -> Iterator[Region]:
        """What stands before the first layer or after the last is merged as the slice there is, all at depth 0."""

        def names(index: int, start: int, where: str) -> dict[str, str]:
            outside = (name for name in self._names(index) if not self._of_layer(name))
            return {name: name for name in outside if wanted(self._tied.get(name, name))}

        region = self._region(part, names)
        if region.entries(region.template):
            yield region

    def _layers(self, part: Slice, start: int, count: int) -> Region:
        """A slice's layers, under their numbers in the result."""

        def names(index: int, first: int, where: str) -> dict[str, str]:
            found = {}
            here = 0
            for name in self._names(index):
                layer = self._of_layer(name)
                if layer is None:
                    continue
                here = max(here, layer[0] + 1)
                if first <= layer[0] < first + count:
                    found[f"{self._stack}.{layer[0] - first + start}.{layer[1]}"] = name
            if where and here < first + count:
                raise InputError(
                    f"{where}: layers [{first}, {first + count}) of {self._inputs.label(index)}, which has "
                    f"{here} under {self._stack!r}"
                )
            return found

        return self._region(part, names, start)

    def _of_layer(self, name: str) -> tuple[int, str] | None:
        place = split_layer(name)
        return None if place is None or place[0] != self._stack else place[1:]

    def _depths(self, names: Iterable[str], layers: int | None, start: int | None) -> dict[str, Fraction] | None:
        """Of a slice's layers, from ``start`` on, and 0 of what stands outside; None: by the names, of all layers."""
        if layers is None:
            return None
        places = ((name, None if start is None else self._of_layer(name)) for name in names)
        return {
            name: Fraction(0) if start is None or place is None else depth_of(place[0] - start, layers)
            for name, place in places
        }

    def _region(
        self, part: Slice, names: Callable[[int, int, str], dict[str, str]], start: int | None = None
    ) -> Region:
        inputs, recipe = self._inputs, self._recipe.part(part)
        views: list[_View] = []

        def view(index: int, first: int, where: str) -> int:
            views.append(_renamed(inputs, index, names(index, first, where)))
            return len(views) - 1

        base = None
        if part.base_start is not None:
            assert inputs.base is not None
            base = view(inputs.base, part.base_start, part.base_where)
        models, importances = [], []
        for source in part.sources:
            models.append(view(inputs.models[source.model], source.start, source.where))
            importance = inputs.importances[source.model]
            importances.append(None if importance is None else view(importance, source.start, ""))
        template = views[models[0] if base is None else base].entries
        region = Region(
            inputs,
            recipe,
            views,
            tasks=tuple(source.model for source in part.sources),
            base=base,
            target=None,
            models=models,
            importances=importances,
            depths=self._depths(template, part.layers, start),
        )
        region.recipe = _of_region(recipe, region)
        return region


def _renamed(inputs: Inputs, index: int, names: Mapping[str, str]) -> _View:
    entries = inputs.entries(index)
    result = {stored: name for name, stored in names.items()}
    aliases = {
        result[alias]: result[first]
        for alias, first in inputs.aliases(index).items()
        if {alias, first} <= result.keys()
    }
    found = {name: entries[stored] for name, stored in names.items()}
    stored = {name: entry for name, entry in found.items() if name not in aliases}
    return _View(index, found, stored, aliases, names)


def _of_region(recipe: Recipe, region: Region) -> Recipe:
    """The recipe, without patterns that match none of a region's names: they are meant for another part."""
    names = region.names
    kept = [name for name in region.entries(region.template) if not matches(name, recipe.exclude)]
    return replace(
        recipe,
        exclude=tuple(pattern for pattern in recipe.exclude if any(matches(name, (pattern,)) for name in names)),
        split={
            pattern: parts for pattern, parts in recipe.split.items() if any(matches(name, (pattern,)) for name in kept)
        },
    )


def _is_first(name: str) -> bool:
    return any(part in name for part in _FIRST) and not any(part in name for part in _NOT_FIRST)
