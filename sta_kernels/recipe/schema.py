"""The keys of a recipe: each is understood, or refused by name and line."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sta_kernels import methods
from sta_kernels.errors import InputError
from sta_kernels.methods.base import Method
from sta_kernels.recipe.document import Node
from sta_kernels.recipe.locate import locate_model
from sta_kernels.recipe.models import REST, ModelSpec, Module, Slice
from sta_kernels.recipe.parameters import (
    MERGEKIT_METHODS,
    check_number,
    default_roles,
    read_model,
    read_settings,
    same_model,
    unknown,
)
from sta_kernels.recipe.slices import read_slices, slice_of_all
from sta_kernels.recipe.values import Setting, chain

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}
_OTHER_NAMES = {
    "fp32": "float32", "float": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp64": "float64",
    "double": "float64",
}  # fmt: skip

_KEYS = (
    "merge_method", "base_model", "target", "models", "slices", "modules", "parameters", "exclude", "split", "dtype",
    "out_dtype", "tokenizer_source", "tokenizer", "chat_template",
)  # fmt: skip
_MIXTURE_KEYS = ("gate_mode", "experts", "shared_experts", "experts_per_token")
_CONTENTS = ("models", "slices", "modules")
AUTO = "auto"
"""In place of a chat template: the one that most of the models have."""
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_OTHER_TEMPLATES = ("alpaca", "exaone", "llama3", "mistral")


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
        if key in _MIXTURE_KEYS:
            node.fail("a key of mergekit-moe, which builds a mixture of experts; that is not supported here")
        if key not in _KEYS:
            unknown(node, key, _KEYS)
    _check_tokenizer(keys)
    method = _method(root, keys)
    base = _optional_model(keys, "base_model")
    notes: list[str] = []
    parameters = _parameters(keys, method, notes)
    contents, parted = _contents(root, keys)
    if not parted and contents is not keys:
        parameters = chain(_parameters(contents, method, notes), parameters)
    models: list[ModelSpec] = []
    slices: tuple[Slice, ...] = ()
    modules: tuple[Module, ...] = ()
    if (parted or "slices" in contents) and keys.get("target") is not None:
        keys["target"].fail("not supported with slices and modules; take whole `models`")
    if parted:
        modules = tuple(_module(keys, node, method, base, models, notes) for node in contents.values())
    elif "slices" in contents:
        slices = read_slices(contents["slices"], method, base, models, notes)
    else:
        models += _models((contents, keys), method, base, notes)
    return {
        "method": method,
        "method_name": method.name,
        "base": base,
        "target": _optional_model(keys, "target"),
        "models": tuple(models),
        "slices": slices,
        "modules": modules,
        "parameters": parameters,
        "exclude": _exclude(keys.get("exclude")),
        "split": _split(keys.get("split")),
        "dtype": _dtype(keys),
        "chat_template": _chat_template(keys.get("chat_template")),
        "notes": tuple(dict.fromkeys(notes)),
    }


def _parameters(keys: Mapping[str, Node], method: Method, notes: list[str]) -> dict[str, Setting]:
    entries = keys["parameters"].mapping() if "parameters" in keys else {}
    return read_settings(entries, method, method.parameters, (), notes)


def _note_gradients(
    levels: Iterable[Mapping[str, Node]], method: Method, numbers: Container[int], notes: list[str]
) -> None:
    """Say of a list for all models what it is, where it has as many values as there are models."""
    per_model = {parameter.key for parameter in method.parameters if parameter.per_model}
    for key, node in (item for keys in levels if "parameters" in keys for item in keys["parameters"].mapping().items()):
        values = [item.value for item in node.value] if isinstance(node.value, list) else []
        if key in per_model and len(values) > 1 and len(values) in numbers and not isinstance(values[0], dict):
            listed = ", ".join(map(str, values))
            notes.append(
                f"{node.where}: [{listed}] is a gradient over depth; one value per model stands under each model"
            )


def _contents(root: Node, keys: Mapping[str, Node]) -> tuple[Mapping[str, Node], bool]:
    """What holds ``models`` or ``slices``: the recipe, or a module that is all of it; else (and true) the modules."""
    given = [key for key in _CONTENTS if key in keys]
    if not given:
        root.fail("models is missing; list the models to merge, or `slices` of them")
    if len(given) > 1:
        keys[given[1]].fail(f"a recipe has one of {', '.join(_CONTENTS)}; `{given[0]}` is there already")
    if given != ["modules"]:
        return keys, False
    modules = keys["modules"].mapping()
    if not modules:
        keys["modules"].fail("no modules: nothing would be left")
    for module in modules.values():
        contents = module.mapping()
        for key, node in contents.items():
            if key not in ("models", "slices", "parameters"):
                unknown(node, key, ("models", "slices", "parameters"))
        if ("models" in contents) == ("slices" in contents):
            module.fail("a module has either `models` or `slices`")
    if len(modules) > 1 or modules.keys().isdisjoint(REST):
        return modules, True
    (whole,) = modules.values()
    return whole.mapping(), False


def _module(
    keys: Mapping[str, Node], node: Node, method: Method, base: str | None, models: list[ModelSpec], notes: list[str]
) -> Module:
    """One of several modules; its own values go with its slices."""
    contents = node.mapping()
    own = _parameters(contents, method, notes)
    if "slices" in contents:
        slices = read_slices(contents["slices"], method, base, models, notes)
        slices = tuple(replace(part, parameters=chain(part.parameters, own)) for part in slices)
    else:
        slices = (slice_of_all(_models((contents, keys), method, base, notes), models, base, own, node.where),)
    return Module(node.path.removeprefix("modules."), slices, node.where)


_KEPT = "only the base's tokenizer can be kept (`base`)"


def _check_tokenizer(keys: Mapping[str, Node]) -> None:
    source = keys.get("tokenizer_source")
    tokenizer = keys.get("tokenizer")
    if tokenizer is not None and tokenizer.value is not None:
        if source is not None and source.value is not None:
            tokenizer.fail("tokenizer_source is there already; give one of them")
        fields = tokenizer.mapping()
        for key, node in fields.items():
            if key != "source" and node.value is not None:
                node.fail(f"{_KEPT}: the rows of the embeddings are merged as they stand, none is added or moved")
        if "source" not in fields:
            tokenizer.fail(f"mergekit takes the union of the tokenizers here; {_KEPT}, so say `source: base`")
        source = fields["source"]
    if source is None or source.value in (None, "base"):
        return
    if source.value == "union":
        source.fail(f"{_KEPT}: a union has other rows of the embeddings than the models; give all models one tokenizer")
    source.fail(f"{_KEPT}, not {source.described}: the rows of the embeddings stay those of the base")


def _chat_template(node: Node | None) -> str | None:
    if node is None or node.value is None:
        return None
    text = node.text()
    if text == "chatml":
        return _CHATML
    if text != AUTO and "{" not in text:
        known = "mergekit's template of that name is not here" if text in _OTHER_TEMPLATES else "no template's name"
        node.fail(
            f"{node.described}: {known}; give `chatml`, `auto` for the one that most models have, or the template "
            "itself as Jinja text; without the key, the base's is kept"
        )
    return text


def _method(root: Node, keys: Mapping[str, Node]) -> Method:
    node = keys.get("merge_method")
    if node is None:
        root.fail(f"merge_method is missing; one of {', '.join(methods.names())}")
    if node.text() in MERGEKIT_METHODS and node.text() not in methods.names():
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
    levels: Sequence[Mapping[str, Node]], method: Method, base: str | None, notes: list[str]
) -> tuple[ModelSpec, ...]:
    """The models that are listed in the first of the levels; the recipe is the last."""
    listed = levels[0]["models"]
    specs = _with_base([read_model(node, method, notes) for node in listed.sequence()], levels, method, base, notes)
    check_number(listed, method, len(specs))
    _note_gradients(levels, method, {len(specs), len(listed.sequence())}, notes)
    return specs


def _with_base(
    specs: list[ModelSpec],
    levels: Sequence[Mapping[str, Node]],
    method: Method,
    base: str | None,
    notes: list[str],
) -> tuple[ModelSpec, ...]:
    if base is None:
        return tuple(specs)
    if default_roles(method).base:
        # As with mergekit, the base may stand among the models: its difference from itself is no task.
        tasks = [spec for spec in specs if not same_model(spec.model, base)]
        notes.extend(f"{s.where}: the base, not a task; its parameters change nothing"
                     for s in specs if s not in tasks and (s.parameters or s.importance))  # fmt: skip
        return tuple(tasks)
    everywhere = {key for keys in levels if "parameters" in keys for key in keys["parameters"].mapping()}
    # A base has no importance file, so what needs one averages the listed models alone.
    joins = method.base_is_model or ("weight" in everywhere and not default_roles(method).importance)
    if joins and not any(same_model(spec.model, base) for spec in specs):
        node = levels[-1]["base_model"]
        specs.append(ModelSpec(base, name=node.text(), where=node.where))
        said = "one more model" if method.base_is_model else "averaged as one more model with the global weight"
        notes.append(f"{node.where}: {said}, as mergekit does")
    return tuple(specs)


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
                meant = _OTHER_NAMES.get(node.text())
                hint = f"did you mean `{meant}`?" if meant else f"known: {', '.join(DTYPES)}"
                node.fail(f"{node.value!r} cannot be written; {hint}")
    return code
