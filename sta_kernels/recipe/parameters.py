"""Parameters as they stand in a recipe: of all models, of one, or of what lies between."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from sta_kernels.methods.base import Method, Parameter, Roles
from sta_kernels.recipe.document import Node
from sta_kernels.recipe.locate import locate_file, locate_model
from sta_kernels.recipe.models import ModelSpec
from sta_kernels.recipe.values import Setting, read_setting

_METHODS = (
    "arcee_fusion breadcrumbs breadcrumbs_ties dare_linear dare_ties della della_linear karcher linear model_stock "
    "multislerp nearswap nuslerp passthrough ram ramplus_tl sce slerp task_arithmetic ties"
)
_PARAMETERS = (
    "alpha density eps epsilon filter_wise gamma int8_mask lambda max_iter normalize normalize_weights "
    "nuslerp_flatten nuslerp_row_wise r rescale scale select_topk t tol weight"
)
MERGEKIT_METHODS = frozenset(_METHODS.split())
MERGEKIT_PARAMETERS = frozenset(_PARAMETERS.split())
"""Of its methods, mergekit takes any of these, and leaves unread what a method does not have; so do we, and say so."""


def unknown(node: Node, key: str, known: Iterable[str]) -> NoReturn:
    """Refuse a key, with the known one that is closest."""
    from difflib import get_close_matches

    close = get_close_matches(key, list(known), 1)
    hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known) or 'none'}"
    node.fail(f"not understood; {hint}")


def read_model(node: Node, method: Method, notes: list[str], also: tuple[str, ...] = ()) -> ModelSpec:
    """Read an entry of ``models`` or of a slice's ``sources``; the latter has further keys, which the caller reads."""
    fields = node.mapping()
    known = ("model", "parameters", *also)
    for key, field in fields.items():
        if key not in known and key in {parameter.key for parameter in method.parameters}:
            field.fail("not understood; it belongs under `parameters`")
        if key not in known:
            unknown(field, key, known)
    if "model" not in fields:
        node.fail("`model` is missing: a folder, a file, or a hub id in the local cache")
    model = fields["model"]
    entries = dict(fields["parameters"].mapping()) if "parameters" in fields else {}
    further = ("importance",) if default_roles(method).importance else ()
    importance = entries.pop("importance", None) if further else None
    accepted = [parameter for parameter in method.parameters if parameter.per_model]
    return ModelSpec(
        locate_model(model),
        None if importance is None else locate_file(importance),
        read_settings(entries, method, accepted, further, notes),
        model.text(),
        model.where,
    )


def read_settings(
    entries: Mapping[str, Node], method: Method, accepted: Sequence[Parameter], also: tuple[str, ...], notes: list[str]
) -> dict[str, Setting]:
    """Read parameters; ``accepted`` are those that may stand here, ``also`` further keys for the hint."""
    known = {parameter.key: parameter for parameter in accepted}
    idle = MERGEKIT_PARAMETERS if method.name in MERGEKIT_METHODS else frozenset()
    settings = {}
    for key, node in entries.items():
        if key in known:
            settings[known[key].name] = read_setting(node, known[key].check)
        elif key in idle:
            read_setting(node, lambda value: value)
            notes.append(f"{node.where}: without effect {_reach(key, method)}, here as in mergekit")
        elif key in {parameter.key for parameter in method.parameters}:
            node.fail(f"{key} is one value for all models: it belongs under the recipe's own `parameters`")
        elif key == "importance" and default_roles(method).importance:
            node.fail("each model has its own importance: it belongs under the model's `parameters`")
        else:
            unknown(node, key, (*known, *also))
    return settings


def _reach(key: str, method: Method) -> str:
    if key in {parameter.key for parameter in method.parameters}:
        return "under a single model: it is one value for all, under the recipe's own `parameters`"
    return f"on {method.name}"


def check_number(node: Node, method: Method, given: int) -> None:
    """Refuse a number of models that a method with a hint does not take; ``given`` counts no base."""
    least, most = method.models
    if not method.models_hint or (least <= given and (most is None or given <= most)):
        return
    advice = ""
    if default_roles(method).base:
        listed = "set `base_model` to one of the two models listed" if given == 2 else f"{given} are listed besides it"
        advice = f": {listed}"
    node.fail(f"{method.name} {method.models_hint}{advice}")


def default_roles(method: Method) -> Roles:
    """What a method reads where nothing else is asked of it."""
    return method.usual_roles


def same_model(model: str, other: str) -> bool:
    """Whether two paths lead to one place."""
    return os.path.realpath(model) == os.path.realpath(other)
