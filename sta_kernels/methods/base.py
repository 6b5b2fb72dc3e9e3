"""What a merging method is: the operands it reads, the statistics it needs first, and one fused rule.

Every elementwise method is ``θ = θ0 + Σ_i w_i · M_i ⊙ τ_i``. The engine and the in-memory merge know nothing of
any method beyond this page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.methods.statistics import Statistic

REQUIRED: Any = type("Required", (), {"__repr__": lambda self: "REQUIRED"})()


@dataclass(frozen=True)
class Parameter:
    """A knob of a method.

    Attributes:
        name: Python keyword and recipe key (a trailing underscore is dropped in recipes: ``lambda_``).
        check: returns the value in its own type, or raises ValueError saying what is expected.
        default: used where the caller gives none; ``REQUIRED`` where there is no default.
        per_model: one value per model; a single value given serves all.
        excludes: parameters that cannot be given beside this one.
        summary: one line for ``--help`` and the documentation.
    """

    name: str
    check: Callable[[Any], Any]
    default: Any
    per_model: bool = False
    excludes: tuple[str, ...] = ()
    summary: str = ""

    @property
    def key(self) -> str:
        """Recipe key."""
        return self.name.rstrip("_")


@dataclass(frozen=True)
class Roles:
    """Which operands a method reads under given settings, besides the models."""

    base: bool = True
    importance: bool = False
    target: bool = False


@dataclass(frozen=True)
class Settings:
    """Checked parameter values for one tensor: ``shared[name]`` and, one per model, ``per_model[name][i]``."""

    shared: Mapping[str, Any] = field(default_factory=dict)
    per_model: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Operands:
    """The buffers of one segment or tile: all of the same number of elements; roles not read are None or ()."""

    models: tuple[Buffer, ...]
    base: Buffer | None = None
    importances: tuple[Buffer, ...] = ()
    target: Buffer | None = None


class Method(Protocol):
    """One merging method."""

    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    models: tuple[int, int | None]
    """Least and greatest number of models."""

    def check(self, settings: Settings, n_models: int) -> None:
        """Raise InputError where values do not go together; warn where they cannot do what their names promise."""

    def roles(self, settings: Settings) -> Roles:
        """Operands that are read."""

    def statistics(self, settings: Settings, n_models: int, n_elements: int) -> tuple[Statistic, ...]:
        """Reductions over a segment that :meth:`apply` needs, in the order in which it receives their results."""

    def counters(self, n_models: int) -> tuple[str, ...]:
        """Names of the counters that :meth:`apply` adds to: ``kept`` per model, then ``unrouted``; () for none."""

    def apply(
        self,
        backend: Backend,
        operands: Operands,
        results: Sequence[Any],
        settings: Settings,
        *,
        out: Buffer,
        counts: np.ndarray[Any, Any] | None,
        threads: int,
    ) -> None:
        """Write the merged elements to ``out`` and add to ``counts`` (int64, one per counter)."""


def weights_or_none(settings: Settings) -> tuple[float, ...] | None:
    """The models' weights, or None where all are 1, which kernels need not multiply by."""
    weights = settings.per_model["weight"]
    return None if all(weight == 1.0 for weight in weights) else weights


def counts_address(counts: np.ndarray[Any, Any] | None) -> int:
    """Address of the counters; 0 for none."""
    return 0 if counts is None else counts.ctypes.data
