"""Selective Task Arithmetic: at each position, add the tasks to which that position matters most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sta_kernels.errors import InputError, warn_caller
from sta_kernels.kernels.backend import TIES, Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.reference.environment import ieee_arithmetic
from sta_kernels.methods.base import (
    Method,
    Operands,
    Parameter,
    Place,
    Roles,
    Settings,
    counts_address,
    weights_or_none,
)
from sta_kernels.methods.parameters import LAMBDA, MEASURE, WEIGHT, P, choice, count
from sta_kernels.methods.quantile import rank_of_quantile
from sta_kernels.methods.statistics import Mean, Range, Statistic
from sta_kernels.methods.subjects import Importance

NORMALISERS = ("minmax", "mean")


@ieee_arithmetic()
def normaliser(kind: str, results: Sequence[Any] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What is subtracted from a task's importance, and what it is then divided by, over one segment (eq. 13).

    Args:
        kind: ``minmax``: (min, max − min); ``mean``: (0, mean).
        results: per task, (min, max) or the mean.

    Returns:
        float32 [N, 2].
    """
    table = np.zeros((len(results), 2), np.float32)
    if kind == "mean":
        table[:, 1] = results
        return table
    lowest, highest = np.asarray(results, np.float32).T
    table[:, 0] = lowest
    table[:, 1] = highest - lowest
    return table


class Sta(Method):
    """``θ = θ0 + λ·Σ_i w_i·M_i ⊙ τ_i`` with ``M_i = [Ĩ_i above the p-quantile of Ĩ over the tasks]`` (eq. 13–17).

    Ĩ is the importance normalised over the segment. Above the quantile means above the k-th smallest of the N values
    at that position, ``k = ⌊1 + (N − 1)p⌋``; with ``keep: c`` instead of p, ``k = N − c``. Source: arXiv 2411.16139.
    """

    name = "sta"
    summary = "Selective Task Arithmetic: per position, the tasks with the largest normalised importance"
    parameters = (
        P,
        Parameter("keep", count, None, excludes=("p",), summary="entries kept at each position, instead of p"),
        MEASURE,
        Parameter("normalise", choice(*NORMALISERS), "minmax", summary="by the range (eq. 13) or mean of the tensor"),
        Parameter("ties", choice(*TIES), "drop", summary="entries equal to the last one dropped or kept (paper: drop)"),
        Parameter("scope", choice("tensor", "block"), "tensor", summary="what is normalised together (paper: tensor)"),
        WEIGHT,
        LAMBDA,
    )

    def check(self, settings: Settings, n_models: int) -> None:
        """Refuse to keep more entries than there are models; warn where p cannot keep any."""
        keep = settings.shared["keep"]
        if keep is not None and keep > n_models:
            raise InputError(f"sta: keep: {keep} entries of {n_models} cannot be kept")
        if keep is None and n_models == 1:
            warn_caller(
                "sta: a single model has no entry above its own quantile, so the result is the base; use keep: 1"
            )

    def rank(self, settings: Settings, n_models: int) -> int:
        """How many of the smallest importances are dropped at each position."""
        keep = settings.shared["keep"]
        return rank_of_quantile(settings.shared["p"], n_models) if keep is None else n_models - keep

    def roles(self, settings: Settings) -> Roles:
        """Base and models; importances unless they follow from the weights."""
        return Roles(importance=settings.shared["measure"] != "amp")

    def statistics(
        self, settings: Settings, n_models: int, place: Place, earlier: Sequence[Any]
    ) -> tuple[Statistic, ...]:
        """Each task's range, or mean."""
        if earlier:
            return ()
        shared = settings.shared
        kind = Mean if shared["normalise"] == "mean" else Range
        scope = "block" if shared["scope"] == "block" else "segment"
        return tuple(kind(Importance(task, shared["measure"]), scope=scope) for task in range(n_models))

    def counters(self, n_models: int) -> tuple[str, ...]:
        """Entries kept per task, and positions that kept none."""
        return (*("kept",) * n_models, "unrouted")

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
        """Normalise, rank, add."""
        assert operands.base is not None
        shared = settings.shared
        table = normaliser(shared["normalise"], results)
        backend.sta_merge(
            operands.base,
            operands.models,
            operands.importances or None,
            measure=shared["measure"],
            normaliser_address=table.ctypes.data,
            k=self.rank(settings, len(operands.models)),
            ties=shared["ties"],
            weights=weights_or_none(settings),
            lambda_=shared["lambda_"],
            out=out,
            counts_address=counts_address(counts),
            threads=threads,
        )


METHODS = (Sta(),)
