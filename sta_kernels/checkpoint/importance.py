"""What an importance file says about itself, in its safetensors metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sta_kernels.checkpoint.names import plain_names
from sta_kernels.errors import InputError
from sta_kernels.kernels.buffers import MEASURES
from sta_kernels.methods.statistics import Summary

_PREFIX = "sta_kernels."
_FORMAT_KEY = _PREFIX + "importance"
_FORMAT = "1"
RECORDED = (*MEASURES, "gradient", "fisher", "gram")
"""What a file may say that it holds: an importance, or what other methods want to know of a model."""


@dataclass(frozen=True)
class ImportanceMetadata:
    """Origin and statistics of an importance.

    Attributes:
        measure: ``lp``, ``amp`` or ``lp_amp``; ``gradient``, ``fisher`` or ``gram``.
        samples: that were summed: backward passes, or rows of a layer's input.
        model_digest: of the fine-tuned model's float32 values (:func:`sta_kernels.checkpoint.digest.model_digest`).
        version: of the package that wrote it.
        statistics: range and mean per tensor, of the values as stored.
        model_sample: of a few of the model's values (:func:`sta_kernels.checkpoint.sample.sample_of`); empty where the
            file does not tell.
    """

    measure: str
    samples: int
    model_digest: str
    version: str
    statistics: Mapping[str, Summary] = field(default_factory=dict)
    model_sample: str = ""

    def to_metadata(self) -> dict[str, str]:
        """Strings for ``__metadata__``; every float is written so that it reads back as itself."""
        table = {name: [_number(x) for x in (s.min, s.max, s.mean)] for name, s in self.statistics.items()}
        return {
            "format": "pt",
            _FORMAT_KEY: _FORMAT,
            _PREFIX + "measure": self.measure,
            _PREFIX + "samples": str(self.samples),
            _PREFIX + "model_digest": self.model_digest,
            **({_PREFIX + "model_sample": self.model_sample} if self.model_sample else {}),
            _PREFIX + "version": self.version,
            _PREFIX + "statistics": json.dumps(table, separators=(",", ":"), ensure_ascii=False),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str = "importance") -> ImportanceMetadata | None:
        """Read the strings back.

        Args:
            metadata: of a checkpoint.
            source: file named in errors.

        Returns:
            None for a file that this package did not write: its values can be used, nothing is known of them.

        Raises:
            InputError: a newer format, or metadata that is damaged, or that differs from shard to shard.
        """
        form = metadata.get(_FORMAT_KEY)
        if form is None:
            return None
        if form != _FORMAT:
            raise InputError(f"{source}: importance format {form!r}; this version reads {_FORMAT}")
        try:
            measure = metadata[_PREFIX + "measure"]
            if measure not in RECORDED:
                raise ValueError(f"unknown measure {measure!r}")
            samples = metadata[_PREFIX + "samples"]
            if not (samples.isascii() and samples.isdecimal()):
                raise ValueError(f"{samples!r} samples")
            return cls(
                measure,
                int(samples),
                metadata[_PREFIX + "model_digest"],
                metadata[_PREFIX + "version"],
                _statistics(metadata[_PREFIX + "statistics"]),
                metadata.get(_PREFIX + "model_sample", ""),
            )
        except KeyError as error:
            raise InputError(f"{source}: importance metadata lacks {error}, or its shards disagree on it") from None
        except (ValueError, OverflowError, RecursionError) as error:
            raise InputError(f"{source}: damaged importance metadata: {error}") from None


def _statistics(text: str) -> dict[str, Summary]:
    """Parse ``{name: [min, max, mean]}``; names lose the same wrappings as the tensors'."""
    table = json.loads(text)
    if not isinstance(table, dict):
        raise ValueError("statistics must be an object")
    plain = plain_names(table)
    return {plain[name]: Summary(*_floats(name, values)) for name, values in table.items()}


def _floats(name: str, values: Any) -> tuple[float, float, float]:
    if not isinstance(values, list) or len(values) != 3 or not all(type(x) in (int, float, str) for x in values):
        raise ValueError(f"statistics of {name!r} must be min, max and mean")
    low, high, mean = (float(x) for x in values)
    if low > high and all(map(math.isfinite, (low, high, mean))):
        raise ValueError(f"statistics of {name!r}: minimum {low:g} exceeds maximum {high:g}")
    return low, high, mean


def _number(value: float) -> float | str:
    """JSON has no spelling for infinities and NaN; they go as strings."""
    return float(value) if math.isfinite(value) else repr(float(value))
