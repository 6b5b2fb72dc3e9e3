"""``slices``: the layers of the result, bottom up, each from named layers of the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sta_kernels.methods.base import Method
from sta_kernels.recipe.document import Node
from sta_kernels.recipe.models import ModelSpec, Slice, Source
from sta_kernels.recipe.parameters import check_number, default_roles, read_model, read_settings, same_model, unknown
from sta_kernels.recipe.values import Setting

_KEYS = ("sources", "parameters", "residual_weight", "base_model")


def read_slices(
    node: Node, method: Method, base: str | None, models: list[ModelSpec], notes: list[str]
) -> tuple[Slice, ...]:
    """Read the list of slices.

    Args:
        node: ``slices``.
        method: of the recipe.
        base: path of the base, or None.
        models: every model that a slice names is added here, once for each importance it has.
        notes: what the reader should know is added here.

    Raises:
        InputError: naming key and line.
    """
    if not node.sequence():
        node.fail("no slices: no layer would be left")
    return tuple(_slice(item, method, base, models, notes) for item in node.sequence())


def slice_of_all(
    specs: Sequence[ModelSpec],
    models: list[ModelSpec],
    base: str | None,
    parameters: Mapping[str, Setting],
    where: str,
) -> Slice:
    """Whole models of a module; they are added to ``models`` as in :func:`read_slices`."""
    sources = tuple(Source(_index(spec, models), 0, spec.parameters, spec.where) for spec in specs)
    return Slice(sources, None, None if base is None else 0, parameters, where)


def _slice(node: Node, method: Method, base: str | None, models: list[ModelSpec], notes: list[str]) -> Slice:
    fields = node.mapping()
    for key, field in fields.items():
        if key not in _KEYS:
            unknown(field, key, _KEYS)
        if key == "base_model" and field.value is not None:
            field.fail("a base for one slice is not supported; the recipe's own `base_model` serves all")
        if key == "residual_weight" and field.value is not None:
            notes.append(f"{field.where}: without effect, here as in mergekit")
    if "sources" not in fields or not fields["sources"].sequence():
        node.fail("`sources` is missing: a list of models, each with its layer_range")
    entries = fields["parameters"].mapping() if "parameters" in fields else {}
    sources: list[Source] = []
    base_start, base_where, layers = None, "", None
    for item in fields["sources"].sequence():
        spec = read_model(item, method, notes, ("layer_range",))
        start, count = _layer_range(item)
        if layers is not None and count != layers:
            item.mapping()["layer_range"].fail(
                f"{count} layers, but {layers} of the first source; all sources of a slice have the same number"
            )
        layers = count
        if base is not None and default_roles(method).base and same_model(spec.model, base):
            if base_start is not None:
                item.fail("the base stands among the sources already")
            base_start, base_where = start, spec.where
            if spec.parameters or spec.importance:
                notes.append(f"{spec.where}: the base, not a task; its parameters change nothing")
        else:
            sources.append(Source(_index(spec, models), start, spec.parameters, spec.where))
    assert layers is not None
    check_number(fields["sources"], method, len(sources))
    parameters = read_settings(entries, method, method.parameters, (), notes)
    return Slice(tuple(sources), layers, base_start, parameters, node.where, base_where)


def _index(spec: ModelSpec, models: list[ModelSpec]) -> int:
    """Where a model stands among those named so far; it is added where it is new."""
    for i, known in enumerate(models):
        if same_model(known.model, spec.model) and known.importance == spec.importance:
            return i
    models.append(replace(spec, parameters={}))
    return len(models) - 1


def _layer_range(source: Node) -> tuple[int, int]:
    """First layer, and how many."""
    node = source.mapping().get("layer_range")
    if node is None:
        source.fail("`layer_range` is missing: [first layer, layer after the last]")
    bounds = [item.value for item in node.sequence()]
    if len(bounds) != 2 or not all(isinstance(bound, int) and not isinstance(bound, bool) for bound in bounds):
        node.fail("expected [first layer, layer after the last]")
    start, stop = bounds
    if not 0 <= start < stop:
        node.fail(f"[{start}, {stop}) holds no layers; layers count from 0, and the second number is not taken")
    return start, stop - start
