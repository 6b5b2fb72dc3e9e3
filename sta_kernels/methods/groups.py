"""Statistics over several segments: the tensors of a layer, or all of a model.

Segments of a group are laid out one after the other, in the order of their names, each from a multiple of a leaf: so
that a sum is taken in one fixed order, wherever the segments come from and in whatever order they are read.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from sta_kernels.errors import InputError
from sta_kernels.kernels.backend import LEAF
from sta_kernels.methods.accumulators import Accumulator
from sta_kernels.methods.base import Method, Parameter, Place, Settings
from sta_kernels.methods.bracket import BracketAccumulator, bracketed, shown
from sta_kernels.methods.selection import Segment
from sta_kernels.methods.statistics import OrderStatistic, Statistic

_LAYER = re.compile(r"^(.*?\.)?\d+\.")
Member = tuple[str, Settings, Place]
"""A tensor of a group."""
_K = TypeVar("_K", bound=Hashable)


def block_of(tensor: str) -> str:
    """What stands before the layer's number and the number; the tensor's whole name outside any layer."""
    match = _LAYER.match(tensor)
    return match[0] if match else tensor


def places(segments: Iterable[Segment]) -> dict[str, Place]:
    """The place of each merged segment, by its name."""
    segments = list(segments)
    blocks: dict[str, int] = {}
    for segment in segments:
        block = block_of(segment.tensor)
        blocks[block] = blocks.get(block, 0) + segment.stop - segment.start
    total = sum(blocks.values())
    return {
        segment.name: Place(segment.tensor, segment.shape, blocks[block_of(segment.tensor)], total)
        for segment in segments
    }


@dataclass(frozen=True)
class Group(Generic[_K]):
    """Segments that share statistics.

    Attributes:
        name: of the block, or empty for the model.
        offsets: where each member starts, by the caller's key.
        extent: where the last one ends.
    """

    name: str
    offsets: Mapping[_K, int]
    extent: int


def group(scope: str, members: Mapping[_K, Segment]) -> list[Group[_K]]:
    """Divide segments into groups of a scope, ``block`` or ``model``."""
    named: dict[str, list[tuple[str, int, _K]]] = {}
    for key, segment in members.items():
        name = block_of(segment.tensor) if scope == "block" else ""
        named.setdefault(name, []).append((segment.tensor, segment.start, key))
    groups = []
    for name, listed in named.items():
        offsets, end = {}, 0
        for _, _, key in sorted(listed, key=lambda member: member[:2]):
            offsets[key] = end
            size = members[key].stop - members[key].start
            end += -(-size // LEAF) * LEAF
        groups.append(Group(name, offsets, end))
    return groups


def shared_round(
    method: Method,
    members: Sequence[Member],
    n_models: int,
    earlier: Sequence[Any],
) -> tuple[Statistic, ...]:
    """The next round over a group; () where the next one is of each segment by itself, or there is none.

    Raises:
        InputError: two members want different ones, since their parameters differ.
    """
    first: tuple[Statistic, ...] = ()
    for i, (_, settings, place) in enumerate(members):
        declared = method.statistics(settings, n_models, place, earlier)
        if declared and declared[0].scope == "segment":
            declared = ()
        if i == 0:
            first = declared
        elif declared != first:
            scope = (declared or first)[0].scope
            raise differing(method, scope, members[0], members[i], n_models, earlier)
    return first


class SharedRounds(Generic[_K]):
    """The rounds of one group on their way, whoever reads its segments.

    Args:
        method: whose statistics these are.
        members: of the group.
        n_models: number of models.
        shared: the group.
        room: bytes that brackets of order statistics may hold; 0 where kernels cannot be asked for samples.

    Attributes:
        pending: statistics that want another pass over the members, by their place among the results; none once all
            rounds are done.
        shown: those of them that the next pass is for.
        stride: of the sample that it takes, if it takes one.
        results: of all rounds.
    """

    def __init__(
        self, method: Method, members: Sequence[Member], n_models: int, shared: Group[_K], *, room: int = 0
    ) -> None:
        self._room = room
        self._method = method
        self._members = members
        self._n_models = n_models
        self._count = sum(place.size for *_, place in members)
        self._extent = shared.extent
        self.pending: dict[int, tuple[Statistic, Accumulator]] = {}
        self.results: list[Any] = []
        self._start()

    def end_of_pass(self) -> list[tuple[Statistic, Any]]:
        """All members were seen: what is settled by that. The next round begins once all of one is."""
        settled = []
        for i, (statistic, accumulator) in self.shown.items():
            if accumulator.end_of_pass():
                self.results[i] = accumulator.result
                del self.pending[i]
                settled.append((statistic, accumulator.result))
        if not self.pending:
            self._start()
        self._show()
        return settled

    def give_up(self) -> None:
        """Take no further statistics."""
        self.pending.clear()
        self._show()

    def _start(self) -> None:
        declared = shared_round(self._method, self._members, self._n_models, self.results)
        brackets = bracketed(declared, self._count, self._room)
        for statistic in declared:
            self.pending[len(self.results)] = (statistic, self._accumulator(statistic, brackets=brackets))
            self.results.append(None)
        self._show()

    def _show(self) -> None:
        self.shown, self.stride = shown(self.pending)

    def _accumulator(self, statistic: Statistic, *, brackets: bool) -> Accumulator:
        if brackets and isinstance(statistic, OrderStatistic):
            return BracketAccumulator(statistic.k, self._count)
        return statistic.accumulator(self._count, self._extent)


def differing(
    method: Method,
    scope: str,
    one: Member,
    other: Member,
    n_models: int,
    earlier: Sequence[Any] = (),
) -> InputError:
    """What to say where two tensors of one block or model want different statistics: the parameters that decide it."""
    tensor, settings, place = one
    given = {
        parameter: (_values(settings, parameter), _values(other[1], parameter))
        for parameter in method.parameters
        if _values(settings, parameter) != _values(other[1], parameter)
    }
    wanted = method.statistics(settings, n_models, place, earlier)
    deciding = [
        parameter
        for parameter, (_, value) in given.items()
        if method.statistics(_changed(settings, parameter, value), n_models, place, earlier) != wanted
    ]
    keys = " and ".join(parameter.key for parameter in deciding or given) or "data"
    return InputError(
        f"{method.name}: {keys}: {tensor!r} and {other[0]!r} differ; since statistics are taken over the {scope}, "
        f"it must be the same for all tensors of the {scope}"
    )


def _values(settings: Settings, parameter: Parameter) -> Any:
    return (settings.per_model if parameter.per_model else settings.shared).get(parameter.name)


def _changed(settings: Settings, parameter: Parameter, value: Any) -> Settings:
    if parameter.per_model:
        return replace(settings, per_model={**settings.per_model, parameter.name: value})
    return replace(settings, shared={**settings.shared, parameter.name: value})
