"""What ``config.json`` says of the number of layers, where slices change it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sta_kernels.engine.modules import owner_of
from sta_kernels.recipe import Recipe
from sta_kernels.recipe.depth import layer_counts
from sta_kernels.recipe.models import Slice

if TYPE_CHECKING:
    from sta_kernels.engine.inputs import Inputs

_NUMBERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "depth", "encoder_layers", "decoder_layers",
            "num_decoder_layers", "num_encoder_layers", "n_blocks", "num_blocks")  # fmt: skip
_LISTS = ("layer_types", "layers_block_type", "mlp_layer_types", "no_rope_layers", "layer_norm_types")
_COMMON_WORDS = frozenset(("model", "layers", "layer", "blocks", "block", "default", "config", "num", "hidden", "n"))


@dataclass(frozen=True)
class LayersEdit:
    """The new layers of one stack.

    Attributes:
        layers: per layer of the result, the template's layer that stands for it.
        had: layers of the template, by its tensors' names.
        module: name of the module and of its stack; empty where the model is not merged by modules.
    """

    layers: tuple[int, ...]
    had: int
    module: str = ""

    def find(self, config: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
        """Keys that hold the number of layers, or a list of one value per layer; of nested configurations as well.

        Of several modules, those with a word of the module's, or the only ones there are.
        """
        found = list(self._candidates(config))
        if self.module:
            own = _words(self.module)
            meant = [each for each in found if own & _words(f"{each[0]}.{each[2]}")]
            numbers = [section for section, part, key in found if isinstance(part[key], int)]
            alone = found if len(numbers) == 1 else []
            found = meant or [each for each in alone if each[0] == numbers[0]]
        return [(part, key) for _, part, key in found]

    def put(self, part: dict[str, Any], key: str) -> None:
        """Change what :meth:`find` found."""
        part[key] = len(self.layers) if isinstance(part[key], int) else [part[key][i] for i in self.layers]

    @property
    def missing(self) -> str:
        """What to say where no key is found."""
        of = f" of {self.module.partition(' ')[0]}" if self.module else ""
        return f"no key holds its number of layers{of}, {self.had}; set it to {len(self.layers)} in the result"

    def _candidates(self, config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
        sections = {"": config, **{key: value for key, value in config.items() if isinstance(value, dict)}}
        for section, part in sections.items():
            for key, value in part.items():
                number = key in _NUMBERS and type(value) is int and value == self.had
                if number or (key in _LISTS and isinstance(value, list) and len(value) == self.had):
                    yield section, part, key


def layers_edits(recipe: Recipe, inputs: Inputs) -> tuple[LayersEdit, ...]:
    """What a recipe's slices ask for; of several modules, those that have slices."""
    names = inputs.checkpoints[inputs.template].entries.keys()
    if not recipe.modules:
        return (LayersEdit(_taken(recipe.slices), max(layer_counts(names).values())),) if recipe.slices else ()
    owner = owner_of(recipe.modules, names, inputs.label(inputs.template))
    edits = []
    for module in recipe.modules:
        if module.slices[0].layers is not None:
            ((stack, had),) = layer_counts(name for name in names if owner(name) == module.name).items()
            edits.append(LayersEdit(_taken(module.slices), had, f"{module.name} {stack}"))
    return tuple(edits)


def _taken(slices: tuple[Slice, ...]) -> tuple[int, ...]:
    starts = ((part.sources[0].start if part.base_start is None else part.base_start, part.layers) for part in slices)
    return tuple(start + i for start, count in starts for i in range(count or 0))


def _words(name: str) -> set[str]:
    return set(re.split(r"[._ ]", name)) - _COMMON_WORDS
