"""What a statistic reduces: an importance of one task, or a field, which is a formula over some of the operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from sta_kernels.kernels.buffers import ImportanceSource
from sta_kernels.kernels.formula import Formula, FormulaSource, Source

if TYPE_CHECKING:
    from sta_kernels.methods.base import Operands

_T = TypeVar("_T")
OfRole = Callable[[str], Sequence[_T]]
"""What there is of a role: ``base``, ``model`` or ``importance``."""


class Subject(Protocol):
    """Something that has a float32 value at every position of a segment."""

    @property
    def task(self) -> int:
        """Model that is named where its values are refused."""

    def source(self, operands: Operands) -> Source:
        """Its values over the operands of a segment or tile."""

    def reads(self, of_role: OfRole[_T]) -> list[_T]:
        """The operands among all of a job's."""


@dataclass(frozen=True)
class Importance:
    """One task's importance in some measure (eq. 12, 21, 22)."""

    task: int
    measure: str

    def source(self, operands: Operands) -> ImportanceSource:
        """See :class:`Subject`."""
        importance = operands.importances[self.task] if self.measure != "amp" else None
        theta = operands.models[self.task] if self.measure != "lp" else None
        return ImportanceSource(self.measure, importance, theta)

    def reads(self, of_role: OfRole[_T]) -> list[_T]:
        """See :class:`Subject`."""
        return [
            *([of_role("importance")[self.task]] if self.measure != "amp" else []),
            *([of_role("model")[self.task]] if self.measure != "lp" else []),
        ]


@dataclass(frozen=True)
class SquaredImportance:
    """The square of one task's importance, as stored."""

    task: int

    def source(self, operands: Operands) -> ImportanceSource:
        """See :class:`Subject`."""
        return ImportanceSource("amp", None, operands.importances[self.task])

    def reads(self, of_role: OfRole[_T]) -> list[_T]:
        """See :class:`Subject`."""
        return [of_role("importance")[self.task]]


@dataclass(frozen=True)
class Field:
    """A formula over chosen models, their importances, and the base.

    Attributes:
        formula: with one row of ``per_model`` for each of ``models``, if it has any.
        models: indices, in the order in which the formula sees them.
        base: whether it reads the base.
        importances: indices; none where it reads no importance.
        masks: indices; masks stand in the importances' place.
    """

    formula: Formula
    models: tuple[int, ...]
    base: bool = True
    importances: tuple[int, ...] = ()
    masks: tuple[int, ...] = ()

    @property
    def task(self) -> int:
        """See :class:`Subject`."""
        return self.models[0]

    def source(self, operands: Operands) -> FormulaSource:
        """See :class:`Subject`."""
        return FormulaSource(
            self.formula,
            tuple(operands.models[i] for i in self.models),
            operands.base if self.base else None,
            (*(operands.importances[i] for i in self.importances), *(operands.masks[i] for i in self.masks)),
            operands.offset,
        )

    def reads(self, of_role: OfRole[_T]) -> list[_T]:
        """See :class:`Subject`."""
        models, importances = of_role("model"), of_role("importance")
        return [
            *(of_role("base") if self.base else ()),
            *(models[i] for i in self.models),
            *(importances[i] for i in self.importances),
        ]


def overflow_advice(subject: Subject) -> str:
    """What to say where a statistic of a subject is not finite, though all operands are."""
    if isinstance(subject, Importance):
        return f"its importance ({subject.measure}) overflows float32; exclude the tensor, or choose another measure"
    return "its task vector overflows float32; exclude the tensor"
