"""What TIES, DARE, Breadcrumbs and DELLA share: sparsify each task vector, weigh it, elect a sign or not, add up.

``δ = λ·Σ_i w_i·s_i·M_i ⊙ τ_i [/ Σ w_i]`` (``reference/formulas/sparse_sum.py`` has the order of operations). Methods
differ in the gate that makes M_i, in whether signs are elected, and in defaults.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from sta_kernels.kernels.formula import Formula
from sta_kernels.kernels.reference.formulas.sparse_sum import GATES
from sta_kernels.methods.base import FormulaMethod, Parameter, Place, Settings
from sta_kernels.methods.linear import divisor
from sta_kernels.methods.parameters import LAMBDA, WEIGHT, boolean, number
from sta_kernels.methods.quantile import exact
from sta_kernels.methods.statistics import Statistic, Sum
from sta_kernels.methods.subjects import Field

LEAST_NORM = 1e-7
"""A task vector whose L1 norm is below it, before or after, is not rescaled."""
_ALL = (-1.0, 0)
"""A pair (threshold, cut) that every magnitude is above."""
_NONE = (math.inf, 0)
"""One that none is."""


def density(value: Any) -> float:
    """A number in [0, 1]."""
    found = number(value)
    if not 0 <= found <= 1:
        hint = f"; {found:g} % is written {found / 100:g}" if 1 < found <= 100 else ""
        raise ValueError(f"expected a share in [0, 1], got {value!r}{hint}")
    return found


def rescaling(*kinds: str) -> Any:
    """A check for one of some kinds of rescaling; true is the first and false is none, as mergekit has them."""

    def check(value: Any) -> str:
        if isinstance(value, bool | np.bool_):
            return kinds[0] if value else "none"
        if value not in (*kinds, "none"):
            raise ValueError(f"expected {', '.join(kinds)} or none, got {value!r}")
        return str(value)

    return check


DENSITY = Parameter(
    "density", density, 1.0, per_model=True, summary="share of each task vector's entries that is kept, in [0, 1]"
)
INT8_MASK = Parameter("int8_mask", boolean, False, summary="accepted, as by mergekit, without effect")


def normalize(default: bool) -> Parameter:
    """The knob, with a method's own default."""
    return Parameter("normalize", boolean, default, summary="divide by the sum of the weights that take part")


def rescale(default: str, *kinds: str) -> Parameter:
    """The knob, with a method's own default and kinds."""
    listed = {"l1": "`l1` (or true): to the L1 norm that τ had", "keep_rate": "`keep_rate`: by 1/density"}
    summary = f"how what is kept is scaled; {'; '.join(listed[kind] for kind in kinds)}; `none` (or false): not at all"
    return Parameter("rescale", rescaling(*kinds), default, summary=summary)


@dataclass(frozen=True)
class Gate:
    """How one task's entries are kept.

    Attributes:
        upper: (threshold, cut) that what is kept is not above.
        lower: (threshold, cut) that it is above.
        kept: of 2³² draws, how many keep an entry.
        scale: of what is kept.
    """

    upper: tuple[float, int] = _NONE
    lower: tuple[float, int] = _ALL
    kept: int = 1 << 32
    scale: float = 1.0


class SparseMethod(FormulaMethod):
    """A method of this family; subclasses say how entries are kept.

    Attributes:
        gate: one of the formula's gates.
        elects: whether signs are elected.
    """

    gate: str
    elects: bool

    def keeps_all(self, settings: Settings, task: int) -> bool:
        """Whether a task's vector stays as it is."""
        return settings.per_model["density"][task] >= 1

    @abstractmethod
    def gates(self, settings: Settings, n_models: int, place: Place, results: Sequence[Any]) -> list[Gate]:
        """One per task, from the results of the rounds that :meth:`statistics` declares before the sums."""

    def zero_sign(self, settings: Settings, results: Sequence[Any]) -> float:
        """The sign that is taken where the sum over the tasks is 0."""
        return 1.0

    def rescaled(self, settings: Settings, n_models: int) -> list[int]:
        """Tasks whose L1 norm is restored."""
        if settings.shared["rescale"] != "l1":
            return []
        return [task for task in range(n_models) if not self.keeps_all(settings, task)]

    def norms(self, settings: Settings, n_models: int, place: Place, gates: Sequence[Gate]) -> tuple[Statistic, ...]:
        """The round of sums that rescaling to the L1 norm needs."""
        sums: list[Statistic] = []
        for task in self.rescaled(settings, n_models):
            kept = self.formula("sparse_distance", settings, place, gates, (task,))
            sums += [Sum(distance_of(task)), Sum(Field(kept, (task,), masks=(task,) if self.gate == "mask" else ()))]
        return tuple(sums)

    def scales(self, settings: Settings, n_models: int, sums: Sequence[float]) -> list[float]:
        """Factor of what is kept of each task, from the results of :meth:`norms`."""
        scales = self.keep_rates(settings) if settings.shared["rescale"] == "keep_rate" else [1.0] * n_models
        for task, before, after in zip(self.rescaled(settings, n_models), sums[::2], sums[1::2], strict=True):
            scales[task] = before / after if min(before, after) >= LEAST_NORM else 1.0
        return scales

    def keep_rates(self, settings: Settings) -> list[float]:
        """Factors by which every entry of a task that is kept is divided by its chance."""
        return [float(1 / exact(share)) if 0 < share < 1 else 1.0 for share in settings.per_model["density"]]

    def formula(
        self,
        name: str,
        settings: Settings,
        place: Place,
        gates: Sequence[Gate],
        tasks: Sequence[int],
        scales: Sequence[float] | None = None,
        zero_sign: float = 1.0,
    ) -> Formula:
        """A formula of the family over some of the tasks, with their gates."""
        weights = [settings.per_model["weight"][task] for task in tasks]
        whole = divisor(weights, settings.shared["normalize"])
        rows, integers = [], [0, 0]
        if self.gate == "random":  # of other gates, the formula is the same for all tensors
            integers = [settings.shared["seed"], tensor_hash(place)]
        for task, weight in zip(tasks, weights, strict=True):
            gate = gates[task]
            scale = 1.0 if scales is None else scales[task]
            rows.append((weight, scale, gate.upper[0], gate.lower[0]))
            integers += (gate.upper[1], gate.lower[1], gate.kept, task)
        return Formula(
            name,
            (GATES.index(self.gate), int(self.elects), int(settings.shared["normalize"])),
            (settings.shared["lambda_"], whole, zero_sign),
            tuple(rows),
            tuple(integers),
        )

    def rule(self, settings: Settings, n_models: int, place: Place, results: Sequence[Any]) -> Formula:
        """Sparsify, weigh, elect, add."""
        n_norms = 2 * len(self.rescaled(settings, n_models))
        found, sums = results[: len(results) - n_norms], results[len(results) - n_norms :]
        return self.formula(
            "sparse_sum",
            settings,
            place,
            self.gates(settings, n_models, place, found),
            range(n_models),
            self.scales(settings, n_models, sums),
            self.zero_sign(settings, found),
        )


def tensor_hash(place: Place) -> int:
    """32 bits by which the draws of one tensor are told from those of another."""
    return xxhash.xxh32_intdigest(place.tensor.encode())


def distance_of(task: int) -> Field:
    """``|τ|`` of one task."""
    return Field(Formula("distance"), (task,))


@functools.lru_cache(1 << 10)
def share_of(share: float, n: int) -> int:
    """``⌊share·n⌋`` of the decimal as written, no more than n."""
    return min(math.floor(exact(share) * n), n)


def chance_of(share: float) -> int:
    """Of 2³² equally likely draws, how many keep an entry of that probability."""
    return min(math.floor(exact(share) * (1 << 32)), 1 << 32)


COMMON = (DENSITY, WEIGHT, LAMBDA, INT8_MASK)
