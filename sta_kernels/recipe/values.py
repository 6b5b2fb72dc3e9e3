"""Parameter values of a recipe: a plain value, a gradient over the depth, or values by filter on the tensor's name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Union

from sta_kernels.recipe.document import Node

Check = Callable[[Any], Any]
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Constant:
    """The same value for every tensor."""

    value: Any

    def at(self, name: str, depth: Fraction) -> Any:
        """The value."""
        return self.value


@dataclass(frozen=True)
class Gradient:
    """Values at equal distances over the depth: numbers are interpolated linearly, anything else steps."""

    values: tuple[Any, ...]

    def at(self, name: str, depth: Fraction) -> Any:
        """The value at ``depth``: computed exactly from the decimals as written, then rounded once."""
        position = depth * (len(self.values) - 1)
        low = int(position)
        first = self.values[low]
        if low == position or not all(_is_number(value) for value in self.values):
            return first
        start, stop = (Fraction(str(value)) for value in (first, self.values[low + 1]))
        value = start + (stop - start) * (position - low)
        whole = value.denominator == 1 and all(isinstance(v, int) for v in self.values)
        return int(value) if whole else float(value)


@dataclass(frozen=True)
class Filtered:
    """The first entry whose filter is part of the tensor's name; None or ``*`` matches any."""

    entries: tuple[tuple[str | None, Setting], ...]

    def at(self, name: str, depth: Fraction) -> Any:
        """The matching entry's value; None where none matches."""
        for pattern, setting in self.entries:
            if pattern is None or pattern == "*" or pattern in name:
                return setting.at(name, depth)
        return None


@dataclass(frozen=True)
class Chain:
    """The first of several settings that has a value, the most specific one first."""

    settings: tuple[Setting, ...]

    def at(self, name: str, depth: Fraction) -> Any:
        """Its value; None where no setting has one."""
        values = (setting.at(name, depth) for setting in self.settings)
        return next((value for value in values if value is not None), None)


Setting = Union[Constant, Gradient, Filtered, Chain]  # noqa: UP007 - Filtered names it before it exists


def chain(*tables: Mapping[str, Setting]) -> dict[str, Setting]:
    """One table of several, the most specific one first: a value whose filters do not match gives way to the next."""
    keys = dict.fromkeys(key for table in tables for key in table)
    found = {key: tuple(table[key] for table in tables if key in table) for key in keys}
    return {key: settings[0] if len(settings) == 1 else Chain(settings) for key, settings in found.items()}


def is_constant(setting: Setting) -> bool:
    """Whether every tensor has the same value."""
    return isinstance(setting.settings[0] if isinstance(setting, Chain) else setting, Constant)


def filters(setting: Setting) -> tuple[str, ...]:
    """All parts of names that a setting asks for."""
    if isinstance(setting, Chain):
        return tuple(pattern for link in setting.settings for pattern in filters(link))
    if isinstance(setting, Filtered):
        return tuple(pattern for pattern, _ in setting.entries if pattern not in (None, "*"))
    return ()


def read_setting(node: Node, check: Check) -> Setting:
    """Read a parameter's value, checking every number in it.

    Args:
        node: a scalar; a list of scalars (a gradient); or a list of ``{filter, value}``, or one such entry.
        check: returns a scalar in its own type, or raises ValueError that says what is expected.

    Returns:
        The setting, to be asked per tensor.

    Raises:
        InputError: naming key and line.
    """
    if isinstance(node.value, dict):
        return Filtered((_read_entry(node, check),))
    if not isinstance(node.value, list):
        return Constant(_checked(node, check))
    if not node.value:
        node.fail("an empty list gives no value")
    if any(isinstance(item.value, dict) for item in node.value):
        return Filtered(tuple(_read_entry(item, check) for item in node.value))
    return _read_gradient(node, check)


def _read_entry(node: Node, check: Check) -> tuple[str | None, Setting]:
    fields = node.mapping()
    for key, field in fields.items():
        if key not in ("filter", "value"):
            field.fail("not understood; an entry has `value` and, except for the last, `filter`")
    if "value" not in fields:
        node.fail("an entry needs `value` (and `filter`, a part of the tensor's name)")
    pattern = fields.get("filter")
    value = fields["value"]
    if isinstance(value.value, dict):
        value.fail("expected a number or a list of numbers")
    setting = _read_gradient(value, check) if isinstance(value.value, list) else Constant(_checked(value, check))
    return (None if pattern is None or pattern.value is None else pattern.text()), setting


def _read_gradient(node: Node, check: Check) -> Gradient:
    if not node.value:
        node.fail("an empty list gives no value")
    return Gradient(tuple(_checked(item, check) for item in node.value))


def _checked(node: Node, check: Check) -> Any:
    if node.value is None or isinstance(node.value, dict | list):
        node.fail(f"expected a single value, not {node.described}")
    problems = []
    for value in _readings(node.value):
        if isinstance(value, float) and not math.isfinite(value):
            node.fail(f"expected a finite number, not {value}")
        try:
            return check(value)
        except ValueError as error:
            problems.append(str(error))
    node.fail(problems[0])


def _readings(value: Any) -> Iterator[Any]:
    """The value, and what mergekit would also take it for."""
    yield value
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        # Quoted, or 1e-3, which has no dot and so is a string in YAML 1.1.
        yield float(value)
    elif _is_number(value) and value in (0, 1):
        yield bool(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
