"""What a PEFT adapter's ``adapter_config.json`` says, and which kinds of adapter can be added to weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sta_kernels.checkpoint.folder import inside, read_small
from sta_kernels.checkpoint.header import parse_json
from sta_kernels.checkpoint.source import Identity
from sta_kernels.errors import InputError

CONFIG = "adapter_config.json"
_REFUSED = {
    "use_dora": "DoRA rescales the rows of the sum",
    "lora_bias": "biases of the factors are not read",
    "use_qalora": "QALoRA adds to quantized weights",
    "target_parameters": "factors of parameters outside modules are not read",
    "trainable_token_indices": "single rows that were trained are not read",
    "layer_replication": "it changes the layers of the model",
    "alora_invocation_tokens": "it is added for some tokens only",
    "use_bdlora": "block-diagonal factors are not read",
}
"""Keys that change what the adapter means, and why they are refused where they are set."""
_LARGEST = 2.0**63
_MOST_CHARACTERS, _MOST_REPEATS, _MOST_GROUPS = 512, 2, 3
"""Of a pattern of names, and of names that are held against one: each repetition may cost a factor of their length."""
_INITIALISED_PLAINLY = (None, True, False, "true", "false", "gaussian", "eva", "orthogonal")
"""Other ways of initialising change the model's own weights, which its files do not show."""


@dataclass(frozen=True)
class AdapterConfig:
    """A LoRA adapter's description.

    Attributes:
        file: that holds it.
        identity: of the file.
        rank: of the factors.
        alpha: numerator of the scale.
        use_rslora: whether the scale is α/√r instead of α/r.
        fan_in_fan_out: whether weights are stored with inputs first.
        rank_pattern: ranks of single modules, by a pattern of their names.
        alpha_pattern: α of single modules.
        modules_to_save: names of modules that the adapter holds whole.
    """

    file: Path
    identity: Identity
    rank: int
    alpha: float
    use_rslora: bool
    fan_in_fan_out: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    modules_to_save: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> AdapterConfig:
        """Read the configuration in an adapter's folder.

        Raises:
            InputError: there is none, or it describes what cannot be added to weights; names file and key.
            RunError: the device failed.
        """
        file = inside(folder, CONFIG)
        text, identity = read_small(file, "a configuration")
        return cls.parse(text, file, identity)

    @classmethod
    def parse(cls, text: bytes, file: Path, identity: Identity) -> AdapterConfig:
        """Understand what such a file holds; raises InputError as :meth:`read`."""
        known = parse_json(text.strip(), file)
        kind = known.get("peft_type")
        if kind != "LORA":
            raise InputError(f"{file}: peft_type: {kind!r}; only LORA adapters can be added to weights")
        for key, reason in _REFUSED.items():
            if known.get(key):
                raise InputError(f"{file}: {key}: not supported: {reason}; merge the adapter with PEFT first")
        start = known.get("init_lora_weights")
        if start not in _INITIALISED_PLAINLY:
            raise InputError(
                f"{file}: init_lora_weights: {start!r} changes the model's own weights when the adapter is made; "
                "convert the adapter with PEFT first"
            )
        return cls(
            file,
            identity,
            _number(known, "r", file, whole=True),
            _number(known, "lora_alpha", file),
            bool(known.get("use_rslora")),
            bool(known.get("fan_in_fan_out")),
            _pattern(known, "rank_pattern", file, whole=True),
            _pattern(known, "alpha_pattern", file),
            tuple(map(str, known.get("modules_to_save") or ())),
        )

    def rank_of(self, module: str) -> int:
        """Rank of a module's factors."""
        return _by_pattern(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """Scale of a module's product: α/r, or α/√r (rank-stabilised LoRA, arXiv 2312.03732)."""
        rank = self.rank_of(module)
        return _by_pattern(self.alpha_pattern, module, self.alpha) / (math.sqrt(rank) if self.use_rslora else rank)

    def saves(self, name: str) -> bool:
        """Whether a tensor belongs to a module that the adapter holds whole."""
        parts = name.split(".")
        return any(saved in name if "." in saved else saved in parts for saved in self.modules_to_save)


def _may_never_end(pattern: str) -> bool:
    """Whether a pattern could backtrack for ever; the file is somebody else's, and the engine has no time limit."""
    plain = re.sub(r"\\.|\[\^?\]?[^]]*\]", "x", pattern.replace("(?:", "("))
    return (
        len(pattern) > _MOST_CHARACTERS
        or re.search(r"\)[*+?{]|\(\?", plain) is not None
        or len(re.findall(r"[*+?{]", plain)) > _MOST_REPEATS
        or plain.count("(") > _MOST_GROUPS
        or re.search(r"\\[1-9]", pattern) is not None
    )


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """As PEFT finds it: the first pattern that matches the end of the name from a dot on."""
    if len(module) > _MOST_CHARACTERS:
        return default
    found = (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module))
    return next(found, default)


def _number(known: Mapping[str, Any], key: str, file: Path, *, whole: bool = False) -> Any:
    return _checked(known.get(key), key, file, whole)


def _checked(value: Any, key: str, file: Path, whole: bool) -> Any:
    fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not fits or not abs(value) <= _LARGEST or (whole and value < 1):
        raise InputError(
            f"{file}: {key}: expected {'a whole number from 1' if whole else 'a number'}, not {_short(value)}"
        )
    return value


def _short(value: Any) -> str:
    """A value in a message; an integer may have more digits than Python prints."""
    return f"a number of {value.bit_length()} bits" if isinstance(value, int) and abs(value) > _LARGEST else repr(value)


def _pattern(known: Mapping[str, Any], key: str, file: Path, *, whole: bool = False) -> dict[str, Any]:
    table = known.get(key) or {}
    if not isinstance(table, dict):
        raise InputError(f"{file}: {key}: expected patterns of names, not {table!r}")
    for pattern in table:
        if _may_never_end(pattern):
            raise InputError(
                f"{file}: {key}: {pattern[:80]!a} repeats or groups so much that it may never end, which no pattern of "
                "names needs; merge the adapter with PEFT first"
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(f"{file}: {key}: {pattern!r} is no pattern: {error}") from None
    return {pattern: _checked(value, f"{key}.{pattern}", file, whole) for pattern, value in table.items()}
