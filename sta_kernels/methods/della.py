"""DELLA: drop entries of the task vectors at random, small ones more often, and scale up what is left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from sta_kernels.errors import InputError
from sta_kernels.kernels.backend import ROW_BYTES, Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.methods.base import Operands, Parameter, Place, Settings
from sta_kernels.methods.dare import SEED
from sta_kernels.methods.parameters import quantile
from sta_kernels.methods.quantile import exact
from sta_kernels.methods.sparse import COMMON, Gate, SparseMethod, normalize, rescaling, tensor_hash
from sta_kernels.methods.statistics import Statistic

EPSILON = Parameter(
    "epsilon", quantile, 0.15, per_model=True, summary="half of the range of the chances within a row, around density"
)
RESCALE = Parameter(
    "rescale",
    rescaling("l1", "keep_rate"),
    "l1",
    summary="what is kept of a task vector is scaled; l1: to the L1 norm it had; keep_rate: by 1/q; none",
)
_DRAWS = 1 << 32


class Della(SparseMethod):
    """``δ = λ·Σ_{i: sgn d_i = γ} d_i / Σ w_i``, ``d_i = w_i·s_i·M_i ⊙ τ_i``, ``γ = sgn(Σ d_i)`` (arXiv 2406.11617).

    The entry of rank r by |τ_i|, 0 for the least, among the n of its row is kept with probability
    ``q = (density − ε) + 2ε·r/(n − 1)``, in a row of one entry ``q = density``. A row is what stands at one index of
    the first dimension; a vector is one row. Draws are those of DARE. s_i restores the L1 norm of τ_i over the tensor
    (``l1``, as mergekit), or is 1/q (``keep_rate``, as the paper).
    """

    name = "della"
    summary = "DELLA: keep a random share of each task vector, great entries more often; elect a sign, average"
    gate = "mask"
    elects = True
    parameters = (*COMMON, EPSILON, normalize(True), RESCALE, SEED)

    def check(self, settings: Settings, n_models: int) -> None:
        """Refuse probabilities that would leave (0, 1)."""
        for task, (share, spread) in enumerate(_shares(settings)):
            if 0 < share < 1 and not (share - spread > 0 and share + spread < 1):
                density, epsilon = (settings.per_model[name][task] for name in ("density", "epsilon"))
                raise InputError(
                    f"{self.name}: model {task + 1}: density {density} ± epsilon {epsilon}: expected within 0 and 1; "
                    f"set `epsilon` below {float(min(share, 1 - share)):g} (it is {EPSILON.default} unless given)"
                )

    def statistics(
        self, settings: Settings, n_models: int, place: Place, earlier: Sequence[Any]
    ) -> tuple[Statistic, ...]:
        """Norms before and after, where they are restored."""
        return () if earlier else self.norms(settings, n_models, place, self.gates(settings, n_models, place, ()))

    def gates(self, settings: Settings, n_models: int, place: Place, results: Sequence[Any]) -> list[Gate]:
        """All is in the masks; see :class:`SparseMethod`."""
        return [Gate()] * n_models

    def keep_rates(self, settings: Settings) -> list[float]:
        """1: those of DELLA are in the masks."""
        return [1.0] * len(settings.per_model["density"])

    def workspace(self, place: Place, n_models: int) -> int:
        """What ranking a row takes."""
        return ROW_BYTES * self.granule(place)

    def granule(self, place: Place) -> int:
        """A row."""
        return math.prod(place.shape[1:]) if len(place.shape) > 1 else place.size

    def masks(self, settings: Settings, n_models: int) -> int:
        """One per model."""
        return n_models

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
        """0 where an entry is dropped, else 1 or 1/q."""
        base = operands.base
        assert base is not None
        for task, (share, spread) in enumerate(_shares(settings)):
            model: Buffer | None = operands.models[task]
            if model is not None and place.size:
                backend.rank_gate(
                    base,
                    model,
                    row=self.granule(place),
                    chances=_chances(share, spread),
                    scaled=settings.shared["rescale"] == "keep_rate",
                    seed=settings.shared["seed"],
                    tensor=tensor_hash(place),
                    task=task,
                    offset=operands.offset,
                    out=room[task],
                    threads=threads,
                )
        return replace(operands, masks=room)


class DellaLinear(Della):
    """The same without an election: ``δ = λ·Σ w_i·s_i·M_i ⊙ τ_i [/ Σ w_i]``."""

    name = "della_linear"
    summary = "DELLA without election: add up what a random gate keeps of each task vector, great entries more often"
    elects = False
    parameters = (*COMMON, EPSILON, normalize(False), RESCALE, SEED)


def _shares(settings: Settings) -> list[tuple[Fraction, Fraction]]:
    """Density and ε of each model, as written."""
    densities, spreads = settings.per_model["density"], settings.per_model["epsilon"]
    return [(exact(share), exact(spread)) for share, spread in zip(densities, spreads, strict=True)]


def _chances(share: Fraction, spread: Fraction) -> tuple[int, int]:
    """Of 2³² draws, how many keep the least entry of a row, and the greatest."""
    if share <= 0 or share >= 1:
        spread = Fraction(0)
    low, high = (min(math.floor(end * _DRAWS), _DRAWS) for end in (share - spread, share + spread))
    return low, high


METHODS = (Della(), DellaLinear())
