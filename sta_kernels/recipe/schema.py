"""The keys of a recipe: each is understood, or refused by name and line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sta_kernels import methods
from sta_kernels.errors import InputError
from sta_kernels.methods.base import Method, Parameter, Roles, Settings
from sta_kernels.methods.parameters import boolean, number
from sta_kernels.recipe.document import Node
from sta_kernels.recipe.locate import locate_file, locate_model
from sta_kernels.recipe.recipe import ModelSpec
from sta_kernels.recipe.values import Setting, read_setting

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}

_KEYS = (
    "merge_method", "base_model", "target", "models", "parameters", "exclude", "split", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer",
)  # fmt: skip
_LATER = {
    "slices": "layer slices are not supported yet; list whole `models`",
    "modules": "modules are not supported yet; list whole `models`",
    "chat_template": "chat templates are not supported yet; the base's tokenizer files are copied as they are",
}
_MERGEKIT_METHODS = frozenset(
    (
        "arcee_fusion", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "della", "della_linear",
        "karcher", "linear", "model_stock", "multislerp", "nearswap", "nuslerp", "passthrough", "ram", "ramplus_tl",
        "sce", "slerp", "task_arithmetic", "ties",
    )
)  # fmt: skip
_WITHOUT_EFFECT = {
    "task_arithmetic": (
        Parameter("density", number, 1.0, per_model=True),
        Parameter("rescale", boolean, False),
    )
}
"""mergekit takes these for a method whose rule never reads them; so do we, and say so."""


def read_fields(root: Node) -> dict[str, Any]:
    """Read all keys of a recipe.

    Returns:
        The fields of :class:`~sta_kernels.recipe.Recipe`, but for its text and path.

    Raises:
        InputError: naming key and line.
    """
    if not isinstance(root.value, dict):
        root.fail(f"a recipe is a mapping of keys to values, not {root.described}")
    keys = root.mapping()
    for key, node in keys.items():
        if key in _LATER:
            node.fail(_LATER[key])
        if key not in _KEYS:
            _unknown(node, key, _KEYS)
    _check_tokenizer(keys)
    method = _method(root, keys)
    base = _optional_model(keys, "base_model")
    notes: list[str] = []
    parameters = keys["parameters"].mapping() if "parameters" in keys else {}
    return {
        "method": method,
        "method_name": method.name,
        "base": base,
        "target": _optional_model(keys, "target"),
        "models": _models(root, keys, method, base, notes),
        "parameters": _settings(parameters, method, method.parameters, (), notes),
        "exclude": _exclude(keys.get("exclude")),
        "split": _split(keys.get("split")),
        "dtype": _dtype(keys),
        "notes": tuple(dict.fromkeys(notes)),
    }


def _unknown(node: Node, key: str, known: Iterable[str]) -> None:
    from difflib import get_close_matches

    close = get_close_matches(key, list(known), 1)
    hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known) or 'none'}"
    node.fail(f"not understood; {hint}")


def _check_tokenizer(keys: Mapping[str, Node]) -> None:
    source = keys.get("tokenizer_source")
    tokenizer = keys.get("tokenizer")
    if tokenizer is not None:
        for key, node in tokenizer.mapping().items():
            if key != "source":
                node.fail("not supported yet; the base's tokenizer files are copied as they are")
        source = tokenizer.mapping().get("source")
        if source is None:
            tokenizer.fail("mergekit takes the union of the tokenizers here, which is not supported yet; "
                           "say `source: base`")  # fmt: skip
    if source is not None and source.value not in (None, "base"):
        source.fail(f"only `base` is supported yet, not {source.described}")


def _method(root: Node, keys: Mapping[str, Node]) -> Method:
    node = keys.get("merge_method")
    if node is None:
        root.fail(f"merge_method is missing; one of {', '.join(methods.names())}")
    if node.text() in _MERGEKIT_METHODS and node.text() not in methods.names():
        node.fail(
            f"{node.text()} is a mergekit method that this version does not have; known: {', '.join(methods.names())}"
        )
    try:
        return methods.get(node.text())
    except InputError as error:
        node.fail(str(error))


def _optional_model(keys: Mapping[str, Node], key: str) -> str | None:
    node = keys.get(key)
    return None if node is None or node.value is None else locate_model(node)


def _models(
    root: Node, keys: Mapping[str, Node], method: Method, base: str | None, notes: list[str]
) -> tuple[ModelSpec, ...]:
    if "models" not in keys:
        root.fail("models is missing; list the models to merge")
    specs = [_model(node, method, notes) for node in keys["models"].sequence()]
    if base is None:
        return tuple(specs)
    if _default_roles(method).base:
        # As with mergekit, the base may stand among the models: its difference from itself is no task.
        tasks = [spec for spec in specs if not _same(spec.model, base)]
        notes.extend(f"{s.where}: the base, not a task; its parameters change nothing"
                     for s in specs if s not in tasks and (s.parameters or s.importance))  # fmt: skip
        return tuple(tasks)
    everywhere = keys["parameters"].mapping() if "parameters" in keys else {}
    if "weight" in everywhere and not any(_same(spec.model, base) for spec in specs):
        node = keys["base_model"]
        specs.append(ModelSpec(base, name=node.text(), where=node.where))
        notes.append(f"{node.where}: averaged as one more model with the global weight, as mergekit does")
    return tuple(specs)


def _model(node: Node, method: Method, notes: list[str]) -> ModelSpec:
    fields = node.mapping()
    for key, field in fields.items():
        if key not in ("model", "parameters"):
            _unknown(field, key, ("model", "parameters"))
    if "model" not in fields:
        node.fail("`model` is missing: a folder, a file, or a hub id in the local cache")
    model = fields["model"]
    entries = dict(fields["parameters"].mapping()) if "parameters" in fields else {}
    also = ("importance",) if _default_roles(method).importance else ()
    importance = entries.pop("importance", None) if also else None
    accepted = [parameter for parameter in method.parameters if parameter.per_model]
    return ModelSpec(
        locate_model(model),
        None if importance is None else locate_file(importance),
        _settings(entries, method, accepted, also, notes),
        model.text(),
        model.where,
    )


def _settings(
    entries: Mapping[str, Node], method: Method, accepted: Sequence[Parameter], also: tuple[str, ...], notes: list[str]
) -> dict[str, Setting]:
    """Read parameters; ``accepted`` are those that may stand here, ``also`` further keys for the hint."""
    known = {parameter.key: parameter for parameter in accepted}
    idle = {parameter.key: parameter for parameter in _WITHOUT_EFFECT.get(method.name, ())}
    settings = {}
    for key, node in entries.items():
        if key in known:
            settings[known[key].name] = read_setting(node, known[key].check)
        elif key in idle:
            read_setting(node, idle[key].check)
            notes.append(f"{node.where}: without effect on {method.name}, here as in mergekit")
        elif key in {parameter.key for parameter in method.parameters}:
            node.fail(f"{key} is one value for all models: it belongs under the recipe's own `parameters`")
        elif key == "importance" and _default_roles(method).importance:
            node.fail("each model has its own importance: it belongs under the model's `parameters`")
        else:
            _unknown(node, key, (*known, *also))
    return settings


def _default_roles(method: Method) -> Roles:
    return method.roles(Settings({parameter.name: parameter.default for parameter in method.parameters}))


def _same(model: str, other: str) -> bool:
    return os.path.realpath(model) == os.path.realpath(other)


def _exclude(node: Node | None) -> tuple[str, ...]:
    if node is None or node.value is None:
        return ()
    if isinstance(node.value, str):
        return (node.value,)
    return tuple(item.text() for item in node.sequence())


def _split(node: Node | None) -> dict[str, int]:
    parts = {}
    for pattern, item in node.mapping().items() if node is not None else ():
        if isinstance(item.value, bool) or not isinstance(item.value, int) or item.value < 1:
            item.fail(f"expected the number of equal parts, not {item.described}")
        parts[pattern] = item.value
    return parts


def _dtype(keys: Mapping[str, Node]) -> str | None:
    code = None
    for key in ("dtype", "out_dtype"):
        node = keys.get(key)
        if node is not None and node.value is not None:
            code = DTYPES.get(node.text().removeprefix("torch."))
            if code is None:
                node.fail(f"{node.value!r} cannot be written; known: {', '.join(DTYPES)}")
    return code
