"""What a merging method is: the operands it reads, the statistics it needs first, and one fused rule.

Every elementwise method is ``θ = θ0 + Σ_i w_i · M_i ⊙ τ_i``. The engine and the in-memory merge know nothing of
any method beyond this page.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.formula import Formula, FormulaSource
from sta_kernels.methods.statistics import Statistic

REQUIRED: Any = type("Required", (), {"__repr__": lambda self: "REQUIRED"})()
LINALG_BYTES = 32 << 20
"""What the libraries of linear algebra hold per thread."""


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
    """Which operands a method reads under given settings.

    Attributes:
        base: whether it reads the base.
        base_optional: whether it does without one where none is given.
        importance: whether it reads an importance per model.
        target: whether it reads a target.
        models: indices of the models that the rule and the statistics of a segment read; None for all.
    """

    base: bool = True
    base_optional: bool = False
    importance: bool = False
    target: bool = False
    models: tuple[int, ...] | None = None


def _same_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape


@dataclass(frozen=True)
class ModelData:
    """What a model's data file, a recipe's ``importance``, holds for a tensor.

    Attributes:
        name: what messages call it.
        shape: its shape, by the tensor's; None for a tensor that can have none.
        measures: what a file may say that it holds.
        signed: whether its values may be negative.
        without: what becomes of tensors for which no file holds anything, as a note says it; None where they count as
            frozen, and every model must agree on them.
        written_by: what makes such a file.
        instead: parameter and value with which none is needed, if there are any.
    """

    name: str = "importance"
    shape: Callable[[tuple[int, ...]], tuple[int, ...] | None] = _same_shape
    measures: tuple[str, ...] = ("lp", "amp", "lp_amp")
    signed: bool = False
    without: str | None = None
    written_by: str = "sk.importance"
    instead: tuple[str, Any] | None = None

    @property
    def elementwise(self) -> bool:
        """Whether it holds one value per entry of the tensor."""
        return self.shape is _same_shape

    def alternative(self, settings: Settings) -> tuple[str, Any] | None:
        """Parameter and value with which no such file is needed."""
        return ("measure", "amp") if "measure" in settings.shared else self.instead


@dataclass(frozen=True)
class Settings:
    """Checked parameter values for one tensor: ``shared[name]`` and, one per model, ``per_model[name][i]``."""

    shared: Mapping[str, Any] = field(default_factory=dict)
    per_model: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Operands:
    """The buffers of one segment or tile: all of the same number of elements; roles not read are None or ().

    Attributes:
        models: θ_i.
        base: θ0.
        importances: one per model.
        target: what forgetting subtracts from.
        offset: index of the first element in its tensor.
        masks: one per model, where the method makes some of the others.
    """

    models: tuple[Buffer, ...]
    base: Buffer | None = None
    importances: tuple[Buffer, ...] = ()
    target: Buffer | None = None
    offset: int = 0
    masks: tuple[Buffer, ...] = ()


@dataclass(frozen=True)
class Place:
    """Which segment is merged, and how much else there is.

    Attributes:
        tensor: name in the output, by which random draws are told apart.
        shape: of the segment.
        block: elements that are merged in the same layer; of the segment, where it stands outside any.
        model: elements that are merged altogether.
    """

    tensor: str
    shape: tuple[int, ...]
    block: int
    model: int

    @classmethod
    def alone(cls, shape: tuple[int, ...], tensor: str = "") -> Place:
        """A tensor that is all there is."""
        size = math.prod(shape)
        return cls(tensor, shape, size, size)

    @property
    def size(self) -> int:
        """Elements of the segment."""
        return math.prod(self.shape)


class Method(ABC):
    """One merging method: what it takes, what it must know first, and its rule.

    Attributes:
        name: in recipes and in Python.
        summary: one line for ``--help`` and the documentation.
        parameters: its knobs.
        models: least and greatest number of models.
        models_hint: what a recipe with another number is told, after the method's name; "" for the number alone.
        tier: of exactness, ``A``, ``B`` or ``C``; statistics may lower it.
        whole: whether the rule needs a segment in one piece, with its shape; else it works element by element.
        base_is_model: whether a recipe's base is one model more, as to mergekit where a method reads none as such.
        data: what the models' importance files hold.
    """

    name: str
    summary: str
    parameters: tuple[Parameter, ...] = ()
    models: tuple[int, int | None] = (1, None)
    models_hint: str = ""
    tier: str = "A"
    whole: bool = False
    base_is_model: bool = False
    data: ModelData = ModelData()

    def prepare(self) -> None:
        """Load what the rule needs, before it is measured how much memory is left."""

    def check(self, settings: Settings, n_models: int) -> None:
        """Raise InputError where values do not go together; warn where they cannot do what their names promise."""

    def check_place(self, settings: Settings, place: Place) -> None:
        """Raise InputError where the values do not serve a tensor; called before any is merged."""

    def check_names(self, settings: Settings, names: Collection[str]) -> None:
        """Raise InputError where the values name tensors that are not among the result's ``names``."""

    @property
    def usual_roles(self) -> Roles:
        """Operands that are read where nothing else is asked of it."""
        return self.roles(Settings({parameter.name: parameter.default for parameter in self.parameters}))

    def roles(self, settings: Settings) -> Roles:
        """Operands that are read: the base and the models, unless a method says otherwise."""
        return Roles()

    def statistics(
        self, settings: Settings, n_models: int, place: Place, earlier: Sequence[Any]
    ) -> tuple[Statistic, ...]:
        """The next round of reductions that :meth:`apply` needs; () where none are left.

        Those of one round have one scope, and rounds over a block or the model come first. How many there are in each
        round must not depend on results.

        Args:
            settings: of the segment.
            n_models: number of models.
            place: of the segment.
            earlier: results of all earlier rounds, in the order of their statistics.
        """
        return ()

    def counters(self, n_models: int) -> tuple[str, ...]:
        """Names of the counters that :meth:`apply` adds to: ``kept`` per model, then ``unrouted``; () for none."""
        return ()

    def in_one_piece(self, settings: Settings, place: Place, has_data: bool) -> bool:
        """Whether a segment's rule needs all of it at once.

        Args:
            settings: of the segment.
            place: of the segment.
            has_data: whether importance files hold something for it.
        """
        return self.whole

    def workspace(self, place: Place, n_models: int) -> int:
        """Bytes of main memory that :meth:`mask` and :meth:`apply` take besides buffers, of what is in one piece."""
        return 0

    def granule(self, place: Place) -> int:
        """Elements that must not be divided: the tiles of a segment start at multiples of it."""
        return 1

    def masks(self, settings: Settings, n_models: int) -> int:
        """How many masks :meth:`mask` makes, each a float32 buffer of as many elements as the operands."""
        return 0

    def mask(
        self,
        backend: Backend,
        operands: Operands,
        settings: Settings,
        *,
        place: Place,
        room: tuple[Buffer, ...],
        threads: int,
    ) -> Operands:
        """The operands with their masks; these are made for each tile, before its statistics and its rule.

        Args:
            backend: whose kernels to call.
            operands: of a segment or tile; a model that nothing reads in this pass is None, and has no mask then.
            settings: of the segment.
            place: of the segment.
            room: where the masks go.
            threads: upper bound.
        """
        return operands

    @abstractmethod
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
        """Write the merged elements to ``out`` and add to ``counts`` (int64, one per counter).

        Args:
            backend: whose kernels to call.
            operands: of a segment, or of a tile of it where the method works element by element.
            results: of all statistics, in the order of their rounds.
            settings: of the segment.
            place: of the segment.
            out: as many elements as the operands.
            counts: None where nobody wants to know.
            threads: upper bound.
        """


class FormulaMethod(Method):
    """A method whose rule is one formula over all models and the base, if that is read."""

    @abstractmethod
    def rule(self, settings: Settings, n_models: int, place: Place, results: Sequence[Any]) -> Formula:
        """The formula, from the results of all statistics."""

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
        """See :class:`Method`; what a formula calls importances are the masks, where the method makes some."""
        formula = self.rule(settings, len(operands.models), place, results)
        stored = operands.masks or operands.importances
        source = FormulaSource(formula, operands.models, operands.base, stored, operands.offset)
        backend.evaluate(source, out=out, threads=threads)


def weights_or_none(settings: Settings) -> tuple[float, ...] | None:
    """The models' weights, or None where all are 1, which kernels need not multiply by."""
    weights = settings.per_model["weight"]
    return None if all(weight == 1.0 for weight in weights) else weights


def counts_address(counts: np.ndarray[Any, Any] | None) -> int:
    """Address of the counters; 0 for none."""
    return 0 if counts is None else counts.ctypes.data
