"""Which models are selected at each position, from the kernel that merges them."""

from __future__ import annotations

from typing import Any

import numpy as np

from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer

_AT_ONCE = 24
"""Models whose powers of two add up exactly in float32."""


def selected(
    backend: Backend, importances: np.ndarray[Any, Any], normaliser: np.ndarray[Any, Any], k: int, ties: str
) -> np.ndarray[Any, Any]:
    """Selection of the tasks at each position, as a merge makes it.

    No kernel writes masks; but tasks that are 1 everywhere, on a base of 0 and with powers of two for weights, merge to
    the number whose digits say who was selected.

    Args:
        backend: that merges.
        importances: not normalised, float32 [N, n].
        normaliser: (shift, divisor) per task, float32 [N, 2].
        k: 0..N, ranks from below that are dropped.
        ties: of equal importances, as :func:`sta_kernels.kernels.reference.sta_merge.mask_exact` has it.

    Returns:
        bool [N, n].
    """
    n_tasks, size = importances.shape
    base, ones, codes = np.zeros(size, np.float32), np.ones(size, np.float32), np.empty(size, np.float32)
    given = [Buffer.from_numpy(row) for row in importances]
    mask = np.empty(importances.shape, bool)
    for first in range(0, n_tasks, _AT_ONCE):
        tasks = range(first, min(first + _AT_ONCE, n_tasks))
        backend.sta_merge(
            Buffer.from_numpy(base),
            [Buffer.from_numpy(ones)] * n_tasks,
            given,
            measure="lp",
            normaliser_address=normaliser.ctypes.data,
            k=k,
            ties=ties,
            weights=[2.0 ** (task - first) if task in tasks else 0.0 for task in range(n_tasks)],
            lambda_=1.0,
            out=Buffer.from_numpy(codes),
            counts_address=0,
            threads=1,
        )
        digits = codes.astype(np.uint32)
        for task in tasks:
            np.not_equal(digits & np.uint32(1 << (task - first)), 0, out=mask[task])
    return mask
