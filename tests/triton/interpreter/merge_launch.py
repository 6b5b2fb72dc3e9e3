"""Runs the merge kernel on drawn cases, several tensors in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from kernel_cases import MergeCase, poisoned
from kernel_operands import Operand

from sta_kernels.kernels.buffers import Buffer
from sta_kernels.kernels.reference.dtypes import Array
from sta_kernels.kernels.triton.config import LaunchConfig
from sta_kernels.kernels.triton.sta_merge import MergeSegment, launch_sta_merge

CPU = torch.device("cpu")
SMALL = LaunchConfig(block=64, chunk=256, warps=4)
"""Several chunks, blocks and a tail within a thousand elements."""


def launch(
    cases: Sequence[MergeCase], *, config: LaunchConfig = SMALL, shift: int = 0
) -> tuple[list[Operand], list[list[int]]]:
    """Outputs and counters of cases that differ in their operands only, from one call."""
    first = cases[0]
    keep: list[Operand] = []

    def operand(values: Array, dtype) -> Buffer:
        keep.append(Operand(dtype, values.size, shift))
        keep[-1].array[:] = values
        return keep[-1].buffer()

    outputs, segments = [], []
    for case in cases:
        outputs.append(Operand(case.weight_dtype, case.n, shift))
        outputs[-1].array[:] = poisoned(case.n, case.weight_dtype)[0]
        segments.append(
            MergeSegment(
                operand(case.base, case.weight_dtype),
                tuple(operand(array, case.weight_dtype) for array in case.finetuned),
                ()
                if case.measure == "amp"
                else tuple(operand(array, case.importance_dtype) for array in case.importances),
                outputs[-1].buffer(),
            )
        )
    counts = torch.zeros((len(cases), len(first.finetuned) + 1), dtype=torch.int64)
    weights = None if first.weights is None else torch.tensor([case.weights for case in cases], dtype=torch.float32)
    launch_sta_merge(
        CPU,
        segments,
        k=first.k,
        ties=first.ties,
        measure=first.measure,
        normaliser=torch.from_numpy(np.stack([case.normaliser for case in cases])),
        weights=weights,
        lambda_=first.lambda_,
        counts=counts,
        config=config,
    )
    assert all(output.guards_hold() for output in outputs)
    return outputs, counts.tolist()
