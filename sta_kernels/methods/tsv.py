"""Task singular vectors: merge tasks by their first singular triplets, or restore one task from its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sta_kernels.errors import InputError
from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.methods.base import LINALG_BYTES, REQUIRED, Method, Operands, Parameter, Place, Roles, Settings
from sta_kernels.methods.conversion import convert
from sta_kernels.methods.parameters import LAMBDA, count, quantile
from sta_kernels.methods.quantile import exact


def rank_of(shape: tuple[int, ...], ratio: float | None, n_models: int) -> int:
    """Singular triplets that a task keeps: ``⌊ratio·min(m, n)⌋``; the ratio is 1/N where none is given.

    Args:
        shape: of the matrix, m and n.
        ratio: in [0, 1], taken as the decimal that was written.
        n_models: N.
    """
    return min(shape) // n_models if ratio is None else int(exact(ratio) * min(shape))


class SingularVectors(Method):
    """What TSV-M and TSV-C share: matrices are decomposed in one piece, all else goes element by element."""

    tier = "C"
    whole = True

    def prepare(self) -> None:
        """Import torch."""
        import sta_kernels.linalg  # noqa: F401

    def in_one_piece(self, settings: Settings, place: Place, has_data: bool) -> bool:
        """A matrix."""
        return len(place.shape) == 2

    def workspace(self, place: Place, n_models: int) -> int:
        """The task vector, LAPACK's copy and work space, its factors, and those that are kept: float32."""
        rows, columns = place.shape
        least = min(rows, columns)
        return 4 * (3 * rows * columns + 2 * least * (rows + columns) + 6 * least * least) + LINALG_BYTES


class TsvM(SingularVectors):
    """``θ = θ0 + λ·polar(U)·diag(S)·polar(V)`` of each matrix, ``θ0 + λ·mean τ_i`` of all else (arXiv 2412.00081).

    U, S and V join the first ``k = ⌊min(m, n)/N⌋`` singular triplets of every task vector, and ``polar`` makes what is
    joined orthonormal: so tasks that write to one direction share it, and do not add up there. A tensor whose name has
    ``text_projection`` in it is averaged too. A task vector of zeros takes no part.
    """

    name = "tsv_m"
    summary = "TSV-M: join the first singular vectors of the tasks, and make them orthonormal"
    parameters = (LAMBDA,)

    def in_one_piece(self, settings: Settings, place: Place, has_data: bool) -> bool:
        """A matrix, with one exception."""
        return len(place.shape) == 2 and "text_projection" not in place.tensor

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
        """Decompose, join, add; or average."""
        assert operands.base is not None
        n_models, lambda_ = len(operands.models), settings.shared["lambda_"]
        if not self.in_one_piece(settings, place, False):
            backend.weighted_sum(
                operands.base,
                operands.models,
                weights=(1.0,) * n_models,
                divisor=float(n_models),
                lambda_=lambda_,
                out=out,
                threads=threads,
            )
            return
        import torch

        from sta_kernels import linalg

        base, *models = map(linalg.tensor_of, (operands.base, *operands.models))
        with linalg.one_thread():
            delta = linalg.merged_singular_vectors(base, models, rank_of(place.shape, None, n_models), place.tensor)
            if delta is not None:
                linalg.tensor_of(out).copy_(torch.add(base.float(), delta, alpha=lambda_))
        if delta is None:
            convert(backend, operands.base, out, threads=threads)


class TsvC(SingularVectors):
    """``θ = θ0 + U·diag(S)·V`` of one task's first ``k = ⌊ratio·min(m, n)⌋`` singular triplets (arXiv 2412.00081).

    What :func:`sta_kernels.compress` stores of a task and :func:`sta_kernels.decompress` restores, in one step: each
    matrix as its best approximation of rank k, everything else as the task has it.
    """

    name = "tsv_c"
    summary = "TSV-C: one task's model, restored from the first singular vectors of its matrices"
    parameters = (
        Parameter("task", count, REQUIRED, summary="which of the models, from 0"),
        Parameter("ratio", quantile, None, summary="share of the singular triplets that is kept; 1/N without it"),
    )

    def check(self, settings: Settings, n_models: int) -> None:
        """The task is one of the models."""
        if settings.shared["task"] >= n_models:
            raise InputError(f"tsv_c: task: {settings.shared['task']}, but the {n_models} models count from 0")

    def roles(self, settings: Settings) -> Roles:
        """Base and task; the other models are only counted."""
        task = settings.shared["task"]
        return Roles(models=None if task is REQUIRED else (task,))

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
        """Decompose, cut, restore; or copy."""
        assert operands.base is not None
        chosen = operands.models[settings.shared["task"]]
        if not self.in_one_piece(settings, place, False):
            convert(backend, chosen, out, threads=threads)
            return
        from sta_kernels import linalg

        base, model = linalg.tensor_of(operands.base), linalg.tensor_of(chosen)
        rank = rank_of(place.shape, settings.shared["ratio"], len(operands.models))
        with linalg.one_thread():
            factors = linalg.truncated(base, model, rank, place.tensor)
            linalg.tensor_of(out).copy_(linalg.restored(base, *factors))


METHODS = (TsvM(), TsvC())
