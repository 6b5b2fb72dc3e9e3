"""DARE: drop entries of the task vectors at random, and scale up what is left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sta_kernels.methods.base import Parameter, Place, Settings
from sta_kernels.methods.parameters import seed
from sta_kernels.methods.sparse import COMMON, Gate, SparseMethod, chance_of, normalize, rescale
from sta_kernels.methods.statistics import Statistic

SEED = Parameter("seed", seed, 0, summary="key of the random draws")


class DareLinear(SparseMethod):
    """``δ = λ·Σ w_i·s_i·M_i ⊙ τ_i``, each entry of M_i kept with probability ``density`` (arXiv 2311.03099).

    Draws are Philox words keyed by the seed, and counted by the element's index, the task and the tensor's name: the
    same for every backend, tile and number of threads. s_i restores the L1 norm of τ_i over the tensor (``l1``, as
    mergekit), or is 1/density (``keep_rate``, as the paper).
    """

    name = "dare_linear"
    summary = "DARE: add up task vectors of which a random share is kept"
    gate = "random"
    elects = False
    parameters = (*COMMON, normalize(False), rescale("l1", "l1", "keep_rate"), SEED)

    def statistics(
        self, settings: Settings, n_models: int, place: Place, earlier: Sequence[Any]
    ) -> tuple[Statistic, ...]:
        """Norms before and after, where they are restored."""
        return () if earlier else self.norms(settings, n_models, place, self.gates(settings, n_models, place, ()))

    def gates(self, settings: Settings, n_models: int, place: Place, results: Sequence[Any]) -> list[Gate]:
        """Chances; see :class:`SparseMethod`."""
        return [Gate(kept=chance_of(share)) for share in settings.per_model["density"]]


class DareTies(DareLinear):
    """The same with an elected sign, as in TIES: at each position, only what has the sign of the sum is added."""

    name = "dare_ties"
    summary = "DARE with the sign election of TIES"
    elects = True


METHODS = (DareLinear(), DareTies())
