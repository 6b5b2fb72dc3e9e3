"""Model Breadcrumbs: leave out the smallest changes and the greatest ones."""

from __future__ import annotations

from sta_kernels.methods.bands import BandMethod
from sta_kernels.methods.base import Parameter, Settings
from sta_kernels.methods.parameters import quantile
from sta_kernels.methods.sparse import COMMON, normalize, rescale, share_of

GAMMA = Parameter("gamma", quantile, 0.01, per_model=True, summary="share of the greatest entries that is left out")


class Breadcrumbs(BandMethod):
    """``δ = λ·Σ w_i·M_i ⊙ τ_i``; M_i leaves out the greatest ``⌊γ·n⌋`` and keeps the next ``⌊density·n⌋`` by |τ|.

    Where these are more than n, fewer of the greatest are left out (arXiv 2312.06795, as mergekit 0.1.5 has it).
    """

    name = "breadcrumbs"
    summary = "Breadcrumbs: add up task vectors without their smallest and greatest entries"
    elects = False
    parameters = (*COMMON, GAMMA, normalize(False), rescale("none", "l1"))

    def band(self, settings: Settings, task: int, n_elements: int) -> tuple[int, int]:
        """What follows the outliers."""
        share = settings.per_model["density"][task]
        if share >= 1:
            return 0, n_elements
        kept = share_of(share, n_elements)
        first = min(share_of(settings.per_model["gamma"][task], n_elements), n_elements - kept)
        return first, first + kept


class BreadcrumbsTies(Breadcrumbs):
    """The same with an elected sign, as in TIES: at each position, only what has the sign of the sum is added."""

    name = "breadcrumbs_ties"
    summary = "Breadcrumbs with the sign election of TIES"
    elects = True


METHODS = (Breadcrumbs(), BreadcrumbsTies())
