"""AdaMerging's result as a method: task arithmetic with a coefficient per task, or per task and tensor."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from sta_kernels.errors import InputError
from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.methods.base import REQUIRED, Method, Operands, Parameter, Place, Settings
from sta_kernels.methods.parameters import number

_FORMAT_KEY = "sta_kernels.coefficients"
_FORMAT = 1


class Coefficients(str):
    """A table of coefficients; as a string, the digest of its content, by which recipes and plans are told apart.

    Attributes:
        shared: one per task, for tensors that have none of their own; None where all have.
        tensors: one per task for each of these tensors.
    """

    shared: tuple[float, ...] | None
    tensors: dict[str, tuple[float, ...]]

    @classmethod
    def of(
        cls, shared: Sequence[float] | None = None, tensors: Mapping[str, Sequence[float]] | None = None
    ) -> Coefficients:
        """Check a table.

        Raises:
            ValueError: nothing in it, numbers that float32 does not hold, or rows of different lengths.
        """
        own = None if shared is None else _numbers("shared", shared)
        rows = {name: _numbers(name, row) for name, row in (tensors or {}).items()}
        lengths = {len(row) for row in (*rows.values(), *(() if own is None else (own,)))}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError("expected one coefficient per model, as many for every tensor")
        made = cls(xxhash.xxh3_128_hexdigest(json.dumps([own, rows], sort_keys=True).encode()))
        made.shared, made.tensors = own, rows
        return made

    @property
    def n_models(self) -> int:
        """Tasks."""
        return len(next(iter(self.tensors.values())) if self.shared is None else self.shared)

    def row(self, tensor: str) -> tuple[float, ...] | None:
        """One coefficient per task; None for a tensor that has none."""
        return self.tensors.get(tensor, self.shared)

    def table(self) -> dict[str, Any]:
        """The content of a file."""
        table: dict[str, Any] = {_FORMAT_KEY: _FORMAT}
        if self.shared is not None:
            table["shared"] = self.shared
        if self.tensors:
            table["tensors"] = self.tensors
        return table

    def to_json(self) -> str:
        """That content as text; every number reads back as itself."""
        return json.dumps(self.table(), indent=1) + "\n"


def _numbers(name: str, row: Any) -> tuple[float, ...]:
    if isinstance(row, str | Mapping) or not isinstance(row, Iterable):
        raise ValueError(f"{name!r}: expected one coefficient per model, got {row!r}")
    return tuple(map(number, row))


def coefficients(value: Any) -> Coefficients:
    """A file of coefficients by its path, or the same as data: a list for all tensors, or lists by tensor.

    A file's content is taken as well.
    """
    if isinstance(value, Coefficients):
        return value
    if isinstance(value, str | os.PathLike):
        return _read(Path(value))
    if isinstance(value, Mapping):
        return _of_table(value) if _FORMAT_KEY in value else Coefficients.of(tensors=value)
    if isinstance(value, Sequence):
        return Coefficients.of(value)
    raise ValueError(f"expected the path of a file (in Python also a list, or lists by tensor), got {value!r}")


def _read(path: Path) -> Coefficients:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no file of coefficients: {error}") from None
    try:
        return _of_table(table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _of_table(table: Any) -> Coefficients:
    if not isinstance(table, Mapping) or table.get(_FORMAT_KEY) != _FORMAT:
        raise ValueError(f"no file of coefficients of format {_FORMAT}")
    tensors = table.get("tensors")
    if tensors is not None and not isinstance(tensors, Mapping):
        raise ValueError(f"tensors: expected lists by name, got {tensors!r}")
    return Coefficients.of(table.get("shared"), tensors)


class AdaMergingMethod(Method):
    """``θ = θ0 + Σ_i λ_i·τ_i`` with λ of each tensor's own, as :class:`sta_kernels.AdaMerging` learned them.

    AdaMerging (arXiv 2310.02575) chooses λ so that predictions on unlabelled data are certain.
    """

    name = "adamerging"
    summary = "task arithmetic with learned coefficients, per task or per task and tensor"
    parameters = (
        Parameter("coefficients", coefficients, REQUIRED, summary="path of the file that AdaMerging.save wrote"),
    )

    def check(self, settings: Settings, n_models: int) -> None:
        """As many coefficients as models."""
        table = settings.shared["coefficients"]
        if table.n_models != n_models:
            raise InputError(f"adamerging: coefficients: {table.n_models} per tensor for {n_models} models")

    def check_place(self, settings: Settings, place: Place) -> None:
        """Coefficients for every tensor."""
        self._row(settings, place)

    def check_names(self, settings: Settings, names: Collection[str]) -> None:
        """No coefficients for tensors that there are not."""
        unknown = [name for name in settings.shared["coefficients"].tensors if name not in names]
        if unknown:
            listed = ", ".join(map(repr, unknown[:4])) + (f" and {len(unknown) - 4} more" if len(unknown) > 4 else "")
            raise InputError(f"adamerging: coefficients: the result has no tensor {listed}; were they learned of it?")

    @staticmethod
    def _row(settings: Settings, place: Place) -> tuple[float, ...]:
        table: Coefficients = settings.shared["coefficients"]
        row = table.row(place.tensor)
        if row is None:
            raise InputError(f"adamerging: coefficients: none for {place.tensor!r}; exclude it to copy the base's")
        return row

    def apply(
        self,
        backend: Backend,
        operands: Operands,
        results: Sequence[Any],
        settings: Settings,
        *,
        place: Place,
        out: Buffer,
        counts: np.ndarray[Any, Any] | None,
        threads: int,
    ) -> None:
        """One weighted sum of differences."""
        weights = self._row(settings, place)
        backend.weighted_sum(
            operands.base, operands.models, weights=weights, divisor=1.0, lambda_=1.0, out=out, threads=threads
        )


METHODS = (AdaMergingMethod(),)
