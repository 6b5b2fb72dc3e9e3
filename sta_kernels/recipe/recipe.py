"""A recipe: which models are merged, by which method, with which values at each tensor."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from sta_kernels.errors import InputError
from sta_kernels.methods import resolve
from sta_kernels.methods.base import Method, Roles, Settings
from sta_kernels.recipe import document
from sta_kernels.recipe.models import ModelSpec, Module, Slice
from sta_kernels.recipe.values import Chain, Constant, Setting, chain, is_constant


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Attributes:
        method: the merging method.
        method_name: its name.
        base: existing path of the base model, or None.
        target: existing path of the model that forgetting subtracts from, or None for the base.
        models: in the recipe's order; the base is not among them, unless the method averages it as a model. With
            slices, each model that one of them names, once.
        slices: layers of the result, bottom up; none where whole models are merged, or several modules.
        modules: parts of the model that are merged each by itself; none where it is merged as a whole.
        parameters: values for all models, by the parameter's Python name; those of a module of all before the recipe's.
        exclude: globs of tensors that are copied from the base.
        split: glob to number of equal parts along the first dimension that are treated as tensors of their own.
        dtype: safetensors code of what is written (``out_dtype``, else ``dtype``), or None for the base's own.
        chat_template: Jinja text in place of the base's; ``auto``: the one that most of the models have; or None.
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
    slices: tuple[Slice, ...] = ()
    modules: tuple[Module, ...] = ()
    chat_template: str | None = None
    _resolved: dict[tuple[Any, ...], Settings] = field(default_factory=dict, init=False, repr=False, compare=False)

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
        recipe._check(root)
        return recipe

    def _check(self, root: document.Node) -> None:
        """Roles; and values, where neither a filter nor a layer decides which of them a tensor has."""
        parts = [(self.part(part), part.where) for part in self.parts] or [(self, root.source)]
        for part, where in parts:
            try:
                if part._is_constant():
                    part._settings("", Fraction(0))
                roles = part._probed_roles()
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
            if roles.base and self.base is None and not roles.base_optional:
                root.fail(f"base_model is missing; {self.method_name} merges differences from it")
            if roles.base and self.base is not None and part.base is None:
                raise InputError(f"{where}: the base is not among the sources; list it with its layers")
            if self.target is not None and not roles.target:
                root.mapping()["target"].fail(f"{self.method_name} has no target; sta_forget has")

    @property
    def parts(self) -> tuple[Slice, ...]:
        """Slices, those of all modules among them."""
        return self.slices or tuple(part for module in self.modules for part in module.slices)

    def part(self, part: Slice) -> Recipe:
        """One slice as a recipe of its own, of the layers that it takes: a source's values go before the slice's."""
        models = (
            replace(self.models[source.model], parameters=source.parameters, where=source.where)
            for source in part.sources
        )
        return replace(
            self,
            models=tuple(models),
            slices=(),
            modules=(),
            base=None if part.base_start is None else self.base,
            parameters=chain(part.parameters, self.parameters),
        )

    def seeded(self, seed: int) -> Recipe:
        """The same recipe with a seed for methods that draw at random; one that the recipe gives goes before it.

        Args:
            seed: whole number, zero or more.
        """
        if not any(parameter.name == "seed" for parameter in self.method.parameters):
            return replace(self, notes=(*self.notes, f"--random-seed: no effect, {self.method_name} draws nothing"))
        if "seed" in self.parameters:
            return replace(self, notes=(*self.notes, "--random-seed: no effect, the recipe gives `seed`"))
        note = f"seed {seed}, from --random-seed"
        return replace(self, parameters={**self.parameters, "seed": Constant(seed)}, notes=(*self.notes, note))

    @property
    def roles(self) -> Roles:
        """Operands that the method reads where no filter and no layer decides."""
        if self.parts:
            return self.part(self.parts[0]).roles
        return self._probed_roles()

    def _is_constant(self) -> bool:
        tables = (self.parameters, *(spec.parameters for spec in self.models))
        return all(is_constant(setting) for table in tables for setting in table.values())

    def _probed_roles(self) -> Roles:
        """Roles by the values that need no name; those that only tensors have are left to them."""
        found = {parameter.name: parameter.default for parameter in self.method.parameters}
        for name, setting in self.parameters.items():
            value = setting.at("", Fraction(0))
            found[name] = found.get(name) if value is None else value
        return self.method.roles(Settings(found))

    def settings(
        self, tensor_name: str, depth: float | Fraction = 0, input_names: Sequence[str] | None = None
    ) -> Settings:
        """Values of all parameters at one tensor.

        A model's own value goes before the recipe's global one, and that before the method's default; a value whose
        filters do not match gives way in the same order.

        Args:
            tensor_name: as it stands in the output.
            depth: of its layer, in [0, 1] (:func:`sta_kernels.recipe.relative_depths`).
            input_names: of the tensor in each model, which filters of a model's values are held against; None where it
                has the same name everywhere.

        Raises:
            InputError: values that do not go together, or a model without the importance file that they need.
        """
        try:
            settings = self._settings(tensor_name, Fraction(depth), input_names)
        except InputError as error:
            raise InputError(f"{tensor_name}: {error}") from None
        if self.method.roles(settings).importance:
            for spec in self.models:
                if spec.importance is None:
                    data = self.method.data
                    found = data.alternative(settings)
                    other = f", or `{found[0]}: {str(found[1]).lower()}`, which needs none" if found else ""
                    raise InputError(
                        f"{spec.where}: no importance, which {self.method_name} needs for {tensor_name}; add "
                        f"`parameters: {{importance: FILE}}` to the model ({data.written_by} writes it){other}"
                    )
        return settings

    def _settings(self, name: str, depth: Fraction, input_names: Sequence[str] | None = None) -> Settings:
        names = input_names or [name] * len(self.models)
        values: dict[str, Any] = {}
        for parameter in self.method.parameters:
            shared = self.parameters.get(parameter.name)
            if parameter.per_model:
                own = (spec.parameters.get(parameter.name) for spec in self.models)
                chains = (tuple(s for s in (setting, shared) if s is not None) for setting in own)
                values[parameter.name] = tuple(
                    Chain(settings).at(stored, depth) for settings, stored in zip(chains, names, strict=True)
                )
            elif shared is not None and (value := shared.at(name, depth)) is not None:
                values[parameter.name] = value
        key = tuple(values.items())
        if key not in self._resolved:
            self._resolved[key] = resolve(self.method, len(self.models), **values)
        return self._resolved[key]
