"""STA forgetting: subtract from a model what mattered most to one task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sta_kernels.errors import InputError
from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer, ImportanceSource
from sta_kernels.kernels.reference.environment import ieee_arithmetic
from sta_kernels.methods.base import Method, Operands, Parameter, Place, Roles, Settings, counts_address
from sta_kernels.methods.parameters import LAMBDA, MEASURE, WEIGHT, P, boolean, choice, count, quantile
from sta_kernels.methods.quantile import rank_of_quantile
from sta_kernels.methods.sta import NORMALISERS, normaliser
from sta_kernels.methods.statistics import Mean, OrderStatistic, Range, Statistic
from sta_kernels.methods.subjects import Importance


class StaForget(Method):
    """``θ = θ_target − λ·w·M ⊙ τ`` with ``M = [I above the p-quantile of I over the segment]`` (eq. 18–20).

    Eq. 13's normalisation is monotone and so is left out. The target is the base unless another model is given.
    Source: arXiv 2411.16139.

    With ``only_added``, M leaves out what a merge by ``sta`` had not added of the task: the models are those of that
    merge, the task to forget first, and ``added_p`` or ``added_keep`` and ``added_normalise`` what it was made with.
    """

    name = "sta_forget"
    summary = "STA forgetting: subtract a task's most important entries"
    parameters = (
        P,
        MEASURE,
        WEIGHT,
        LAMBDA,
        Parameter("only_added", boolean, False, summary="subtract only what the merge of all the models had added"),
        Parameter("added_p", quantile, 0.7, summary="p of that merge"),
        Parameter("added_keep", count, None, excludes=("added_p",), summary="keep of that merge, instead of its p"),
        Parameter("added_normalise", choice(*NORMALISERS), "minmax", summary="normalise of that merge"),
    )

    def check(self, settings: Settings, n_models: int) -> None:
        """One model, or with ``only_added`` those of the merge, whose selection follows from stored importances."""
        shared = settings.shared
        if not shared["only_added"]:
            if n_models != 1:
                raise InputError(
                    f"sta_forget: {n_models} models given, it forgets one; with only_added, give those of the merge"
                )
        elif shared["measure"] != "lp":
            raise InputError("sta_forget: only_added needs measure: lp, with an importance file of every model")
        elif n_models == 1 and shared["added_keep"] is None:
            raise InputError(
                "sta_forget: only_added makes the merge's selection again, so it needs all models of that merge, the "
                "one to forget first; 1 given"
            )
        elif shared["added_keep"] is not None and shared["added_keep"] > n_models:
            raise InputError(f"sta_forget: added_keep: {shared['added_keep']} entries of {n_models} cannot be kept")

    def roles(self, settings: Settings) -> Roles:
        """Base, target and the model to forget, of others no more than importances, unless they follow from weights."""
        return Roles(importance=settings.shared["measure"] != "amp", target=True, models=(0,))

    def statistics(
        self, settings: Settings, n_models: int, place: Place, earlier: Sequence[Any]
    ) -> tuple[Statistic, ...]:
        """The importance at rank ``⌊1 + (n − 1)p⌋`` of the segment."""
        if earlier:
            return ()
        rank = rank_of_quantile(settings.shared["p"], max(place.size, 1))
        threshold = OrderStatistic(Importance(0, settings.shared["measure"]), rank)
        if not settings.shared["only_added"]:
            return (threshold,)
        kind = Mean if settings.shared["added_normalise"] == "mean" else Range
        return (threshold, *(kind(Importance(task, "lp")) for task in range(n_models)))

    def masks(self, settings: Settings, n_models: int) -> int:
        """Room for zeros, and for the importance of what the merge had added."""
        return 2 if settings.shared["only_added"] else 0

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
        """The room; what goes there needs the statistics."""
        return replace(operands, masks=room)

    def counters(self, n_models: int) -> tuple[str, ...]:
        """Entries in the mask: those that are subtracted."""
        return ("kept",)

    @ieee_arithmetic()
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
        """Compare, subtract."""
        assert operands.base is not None
        measure = settings.shared["measure"]
        model = operands.models[0]
        importance = operands.importances[0] if operands.importances else None
        if settings.shared["only_added"]:
            importance = self._added(backend, operands, results[1:], settings, threads)
        backend.sta_forget(
            operands.target if operands.target is not None else operands.base,
            operands.base,
            model,
            ImportanceSource(measure, importance, None if measure == "lp" else model),
            threshold=results[0],
            weight=settings.per_model["weight"][0],
            lambda_=settings.shared["lambda_"],
            out=out,
            counts_address=counts_address(counts),
            threads=threads,
        )

    def _added(
        self, backend: Backend, operands: Operands, results: Sequence[Any], settings: Settings, threads: int
    ) -> Buffer:
        """The first task's importance where the merge had added it, 0 elsewhere, where nothing can be above T.

        It is what the merge itself gives of models that are 0, but for the first, which is that importance.
        """
        zeros, added = operands.masks
        shared, stored = settings.shared, operands.importances
        keep = shared["added_keep"]
        rank = rank_of_quantile(shared["added_p"], len(stored)) if keep is None else len(stored) - keep
        table = normaliser(shared["added_normalise"], results)
        backend.weighted_sum(None, stored[:1], weights=(0.0,), divisor=1.0, lambda_=1.0, out=zeros, threads=threads)
        backend.sta_merge(
            zeros,
            (stored[0], *(zeros for _ in stored[1:])),
            stored,
            measure="lp",
            normaliser_address=table.ctypes.data,
            k=rank,
            ties="drop",
            weights=None,
            lambda_=1.0,
            out=added,
            counts_address=0,
            threads=threads,
        )
        return added


METHODS = (StaForget(),)
