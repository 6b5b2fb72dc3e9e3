"""Write a tensor's values in another dtype, with no arithmetic on them."""

from __future__ import annotations

import numpy as np

from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer


def convert(backend: Backend, source: Buffer, out: Buffer, *, threads: int = 1) -> None:
    """Write the values of one buffer in the dtype of another, −0 and float64 kept.

    A merge of one task that drops that task writes the base's own value: the one kernel that converts without adding.
    """
    normaliser = np.zeros((1, 2), np.float32)
    backend.sta_merge(
        source,
        [source],
        None,
        measure="amp",
        normaliser_address=normaliser.ctypes.data,
        k=1,
        ties="drop",
        weights=None,
        lambda_=1.0,
        out=out,
        counts_address=0,
        threads=threads,
    )
