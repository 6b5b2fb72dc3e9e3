"""A recipe: which models are merged, by which method, with which values at each tensor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from sta_kernels.errors import InputError
from sta_kernels.methods import resolve
from sta_kernels.methods.base import Method, Roles, Settings
from sta_kernels.recipe import document
from sta_kernels.recipe.values import Setting


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
class Recipe:
    """A checked recipe.

    Attributes:
        method: the merging method.
        method_name: its name.
        base: existing path of the base model, or None.
        target: existing path of the model that forgetting subtracts from, or None for the base.
        models: in the recipe's order; the base is not among them, unless the method averages it as a model.
        parameters: values for all models, by the parameter's Python name.
        exclude: globs of tensors that are copied from the base.
        split: glob to number of equal parts along the first dimension that are treated as tensors of their own.
        dtype: safetensors code of what is written (``out_dtype``, else ``dtype``), or None for the base's own.
        notes: what the reader of a plan should know: keys that are accepted without effect, and the like.
        text: the YAML.
        path: where it was read, or None.
    """

    method: Method
    method_name: str
    base: str | None
    target: str | None
    models: tuple[ModelSpec, ...]
    parameters: Mapping[str, Setting]
    exclude: tuple[str, ...]
    split: Mapping[str, int]
    dtype: str | None
    notes: tuple[str, ...]
    text: str
    path: Path | None
    _resolved: dict[tuple[Any, ...], Settings] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe file.

        Args:
            path: YAML, UTF-8. Paths inside it are relative to the working directory, as with mergekit.

        Raises:
            InputError: naming file, line and key.
        """
        file = Path(os.path.expanduser(path))
        try:
            with open(file, "rb") as stream:
                data = stream.read(document.MAX_BYTES + 1)
        except OSError as error:
            raise InputError(f"{file}: cannot read the recipe: {error.strerror or error}") from None
        if len(data) > document.MAX_BYTES:
            raise InputError(f"{file}: a recipe has at most {document.MAX_BYTES:,} bytes; is this a recipe?")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{file}: not UTF-8 text (byte {error.start}); is this a recipe?") from None
        return cls._read(document.from_text(text, str(file)), text, file)

    @classmethod
    def parse(cls, recipe: str | Mapping[str, Any]) -> Recipe:
        """Read a recipe from YAML text, or from the same structure as Python data.

        Raises:
            InputError: naming the key, and the line where there is text.
        """
        if isinstance(recipe, str):
            return cls._read(document.from_text(recipe, "recipe"), recipe, None)
        import yaml

        root = document.from_object(recipe, "recipe")
        return cls._read(root, yaml.safe_dump(document.to_object(root), sort_keys=False), None)

    @classmethod
    def _read(cls, root: document.Node, text: str, path: Path | None) -> Recipe:
        from sta_kernels.recipe.schema import read_fields

        recipe = cls(**read_fields(root), text=text, path=path)
        try:
            recipe._settings("", Fraction(0))
        except InputError as error:
            raise InputError(f"{root.source}: {error}") from None
        if recipe.roles.base and recipe.base is None:
            root.fail(f"base_model is missing; {recipe.method_name} merges differences from it")
        if recipe.target is not None and not recipe.roles.target:
            root.mapping()["target"].fail(f"{recipe.method_name} has no target; sta_forget has")
        return recipe

    @property
    def roles(self) -> Roles:
        """Operands that the method reads where no filter and no layer decides."""
        return self.method.roles(self._settings("", Fraction(0)))

    def settings(self, tensor_name: str, depth: float | Fraction = 0) -> Settings:
        """Values of all parameters at one tensor.

        A model's own value goes before the recipe's global one, and that before the method's default; a value whose
        filters do not match gives way in the same order.

        Args:
            tensor_name: as it stands in the output.
            depth: of its layer, in [0, 1] (:func:`sta_kernels.recipe.relative_depths`).

        Raises:
            InputError: values that do not go together, or a model without the importance file that they need.
        """
        try:
            settings = self._settings(tensor_name, Fraction(depth))
        except InputError as error:
            raise InputError(f"{tensor_name}: {error}") from None
        if self.method.roles(settings).importance:
            for spec in self.models:
                if spec.importance is None:
                    raise InputError(
                        f"{spec.where}: no importance, which {self.method_name} needs for {tensor_name}; add "
                        "`parameters: {importance: FILE}` to the model, or `measure: amp`, which needs none"
                    )
        return settings

    def _settings(self, name: str, depth: Fraction) -> Settings:
        values: dict[str, Any] = {}
        for parameter in self.method.parameters:
            shared = self.parameters.get(parameter.name)
            value = None if shared is None else shared.at(name, depth)
            if parameter.per_model:
                own = (spec.parameters.get(parameter.name) for spec in self.models)
                found = (None if setting is None else setting.at(name, depth) for setting in own)
                values[parameter.name] = tuple(value if item is None else item for item in found)
            elif value is not None:
                values[parameter.name] = value
        key = tuple(values.items())
        if key not in self._resolved:
            self._resolved[key] = resolve(self.method, len(self.models), **values)
        return self._resolved[key]
