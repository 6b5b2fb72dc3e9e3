"""Formulas: what is computed at one position from the operands that stand there, by a name that every backend knows.

A formula gives one float32 per position. A *rule* writes it, a *field* is reduced by a statistic; the same frame of
tiles, conversions and threads serves both. Each backend has a table of formulas (``reference/formulas``,
``bindings/src/formulas``, ``triton/formulas``), one file a stem, with the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

from sta_kernels.kernels.buffers import Buffer, ImportanceSource


@dataclass(frozen=True, slots=True)
class Formula:
    """A named function of the base, the models, their importances and the element's index.

    What the numbers mean is the formula's own, and stands in its reference.

    Attributes:
        name: key in every backend's table.
        variant: small integers that choose code; few distinct ones occur, since a GPU kernel is compiled for each.
        shared: float32 parameters.
        per_model: float32 parameters, a row of one length per model.
        integers: 64-bit parameters, among them those per model.
    """

    name: str
    variant: tuple[int, ...] = ()
    shared: tuple[float, ...] = ()
    per_model: tuple[tuple[float, ...], ...] = ()
    integers: tuple[int, ...] = ()


class SoughtCut(int):
    """Among a formula's integers, an index below which ties belong that is found while a pass goes over them.

    As a number, it is ``last``: beyond the elements among which it lies, all that comes before or after is right.

    Attributes:
        field: what is compared, of those of the formula's models, by index.
        models: of the field.
        value: what ties are equal to.
        first: index in the tensor of the first element among which it lies, a whole number of leaves after the first
            of a tile.
        last: index after the last.
        count: how many of these ties belong.
    """

    field: Formula
    models: tuple[int, ...]
    value: float
    first: int
    last: int
    count: int

    def __new__(
        cls, field: Formula, models: tuple[int, ...], value: float, *, first: int, last: int, count: int
    ) -> SoughtCut:
        """Its number is ``last``."""
        cut = super().__new__(cls, last)
        cut.field, cut.models, cut.value = field, models, value
        cut.first, cut.last, cut.count = first, last, count
        return cut


@dataclass(frozen=True, slots=True)
class FormulaSource:
    """A formula and its operands, all of the same number of elements.

    Attributes:
        formula: with one row of ``per_model`` for each of the models, if it has any.
        models: θ_i.
        base: θ0, or None where the formula has none.
        importances: one per model, or none at all.
        offset: index of the first element in its tensor, which counters and tie cuts are relative to.
    """

    formula: Formula
    models: tuple[Buffer, ...]
    base: Buffer | None = None
    importances: tuple[Buffer, ...] = ()
    offset: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.models[0].size

    @property
    def operands(self) -> tuple[Buffer, ...]:
        """The base, the models, the importances."""
        return (*(() if self.base is None else (self.base,)), *self.models, *self.importances)


Source = Union[ImportanceSource, FormulaSource]  # noqa: UP007 - a type of values too
"""What a statistic reduces: an importance, or any field."""
