"""What changes in the template's side files: the dtype and number of layers in ``config.json``, the chat template."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sta_kernels.checkpoint.folder import read_json
from sta_kernels.engine.chat_template import (
    TEMPLATE_FILE,
    TEMPLATE_KEY,
    WITH_TEMPLATE,
    most_common,
    own_template,
)
from sta_kernels.engine.config_layers import LayersEdit, layers_edits
from sta_kernels.recipe import AUTO, Recipe

if TYPE_CHECKING:
    from sta_kernels.engine.inputs import Inputs

CONFIG = "config.json"
_TOKENIZER = frozenset(
    (
        *WITH_TEMPLATE, TEMPLATE_FILE, "tokenizer.json", "tokenizer.model", "special_tokens_map.json", "merges.txt",
        "added_tokens.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json",
    )
)  # fmt: skip
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
_DTYPE_KEYS = ("dtype", "torch_dtype")


@dataclass(frozen=True)
class Edits:
    """Changes of side files; part of a plan and of its identity.

    Attributes:
        dtype: safetensors code that ``config.json`` names from now on, or None to leave it.
        layers: of each stack whose layers are not the template's.
        chat_template: Jinja text, or None to leave the template's own.
        chosen: what to say of how it was chosen.
        tokenizer: whether tokenizer files are copied.
        card: whether a model card is written.
    """

    dtype: str | None = None
    layers: tuple[LayersEdit, ...] = ()
    chat_template: str | None = None
    tokenizer: bool = True
    card: bool = True
    chosen: str | None = None

    @classmethod
    def of(cls, recipe: Recipe, inputs: Inputs, *, tokenizer: bool, card: bool) -> Edits:
        """What a recipe asks for."""
        template, chosen = recipe.chat_template, None
        if template == AUTO:
            template, chosen = _plurality(inputs)
        return cls(recipe.dtype, layers_edits(recipe, inputs), template, tokenizer, card, chosen)

    def keeps(self, file: Path) -> bool:
        """Whether a side file is in the result."""
        return self.tokenizer or file.name not in _TOKENIZER

    def content(self, file: Path) -> bytes | None:
        """New content of a side file; None where its bytes stay."""
        if file.name == CONFIG:
            return self._config(file)
        if self.chat_template is not None and file.name == TEMPLATE_FILE:
            return self.chat_template.encode()
        if self.chat_template is not None and file.name in WITH_TEMPLATE:
            known = read_json(file)
            return None if known is None else _written({**known, TEMPLATE_KEY: self.chat_template})
        return None

    def _config(self, file: Path) -> bytes | None:
        config = read_json(file)
        if config is None:
            return None
        before = json.dumps(config)
        if self.dtype is not None:
            config.update({key: _DTYPES[self.dtype] for key in _DTYPE_KEYS if key in config})
        # All keys are found by the numbers that they had, before any is changed.
        for edit, found in [(edit, edit.find(config)) for edit in self.layers]:
            for part, key in found:
                edit.put(part, key)
        return _written(config) if json.dumps(config) != before else None

    def notes(self, files: list[Path]) -> Iterator[str]:
        """What was chosen, and what cannot be set, by the template's side files."""
        if self.chosen is not None:
            yield self.chosen
        by_name = {file.name: file for file in files}
        config = read_json(by_name[CONFIG]) if self.layers and CONFIG in by_name else None
        for edit in self.layers:
            if config is not None and not any(isinstance(part[key], int) for part, key in edit.find(config)):
                yield f"{by_name[CONFIG]}: {edit.missing}"
        if self.chat_template is not None and "tokenizer_config.json" not in by_name:
            yield "chat_template: written, but there is no tokenizer_config.json beside it"


def _plurality(inputs: Inputs) -> tuple[str | None, str]:
    """The chat template that most models have, None where that is the template's own anyway; and what to say of it."""
    read = dict.fromkeys(index for index in (inputs.template, inputs.base, *inputs.models) if index is not None)
    files = {index: inputs.checkpoints[index].side_files() for index in read}
    template, number, having = most_common(files.values())
    if template is None:
        return None, "chat_template: auto, but no model has one"
    said = f"chat_template: auto, that of {number} of the {having} models that have one"
    return None if template == own_template(files[inputs.template]) else template, said


def _written(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
