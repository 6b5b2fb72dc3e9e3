"""The methods' worked examples: what goes in, what must come out, on any backend.

All but the last few start from the base and the task vectors of ``WorkedExample``, which are exact in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sta_kernels import methods
from sta_kernels.kernels.backend import Backend
from sta_kernels.kernels.buffers import Buffer
from sta_kernels.methods.base import Operands, Place
from sta_kernels.methods.run import Piece, merge_pieces

FX_BASE = np.array((8, -16, 4, 0, 24, -8), np.float32) / 8
FX_TAUS = np.array(((4, -1, 0, 3, -6, 2), (-2, -5, 1, 3, 6, -1), (1, 3, -2, -3, 0, 4)), np.float32) / 8
FISHER = np.array(((1, 0, 2, 4, 1, 1), (3, 0, 2, 0, 1, 2), (0, 0, 4, 4, 2, 1)), np.float32)
GRADIENTS = np.array(((1, 2, 1, 2, 1, 1), (2, 1, 1, 1, 3, 1), (1, 1, 4, 1, 1, 2)), np.float32) / 4


@dataclass(frozen=True)
class Example:
    """One merge of one tensor.

    Attributes:
        name: of the test.
        method: to be run.
        expected: merged values.
        parameters: of the method.
        taus: task vectors, [N, n].
        base: θ0, [n].
        importances: [N, n], where the method reads any.
        rtol: relative tolerance; 0 where the values are exact.
    """

    name: str
    method: str
    expected: tuple[float, ...]
    parameters: dict[str, Any] = field(default_factory=dict)
    taus: np.ndarray[Any, Any] = field(default_factory=lambda: FX_TAUS)
    base: np.ndarray[Any, Any] = field(default_factory=lambda: FX_BASE)
    importances: np.ndarray[Any, Any] | None = None
    rtol: float = 0.0


def _tie_of_signs(m0: str) -> Example:
    """Every position sums to 0 or agrees, and no sign has the majority (METHODS §5)."""
    taus = np.array(((1, -1, 2, -2), (-1, 1, 2, -2)), np.float32)
    expected = {"negative": (-1, -1, 2, -2), "none": (0, 0, 2, -2)}[m0]
    parameters = {"density": 0.5, "scope": "model", "m0": m0}
    return Example(f"ties without a majority, {m0}", "ties", expected, parameters, taus, np.zeros(4, np.float32))


def _crumbs(row: tuple[float, ...], expected: tuple[float, ...]) -> Example:
    """Half kept, a sixth of the greatest removed."""
    taus = np.array([row], np.float32)
    parameters = {"density": 0.5, "gamma": 0.17}
    return Example(f"breadcrumbs of {row}", "breadcrumbs", expected, parameters, taus, np.zeros(len(row), np.float32))


# A third, of six entries: two.
_THIRD = {"density": 0.34, "scope": "model"}

EXAMPLES = (
    Example("average", "linear", (1.125, -2.125, 0.458333, 0.125, 3, -0.791667), rtol=1e-6),
    Example("task arithmetic", "task_arithmetic", (1.15, -2.15, 0.45, 0.15, 3, -0.75), {"lambda_": 0.4}, rtol=2e-7),
    Example(
        "negation",
        "task_arithmetic",
        (0.75, -1.9375, 0.5, -0.1875, 3.375, -1.125),
        {"weight": -0.5},
        FX_TAUS[:1],
    ),
    Example("ties, disjoint mean", "ties", (1.5, -2.625, 0.5, 0.375, 3.75, -0.5), _THIRD),
    Example("ties, disjoint sum", "ties", (1.5, -2.625, 0.5, 0.75, 3.75, -0.5), {**_THIRD, "normalize": False}),
    _tie_of_signs("negative"),
    _tie_of_signs("none"),
    # Of ties per tensor, the lowest index is kept: one of the two entries of magnitude 3 in the third task.
    Example("ties per tensor", "ties", (1.5, -2.625, 0.5, 0, 3.75, -0.5), {"density": 0.34}),
    Example(
        "consensus", "consensus", (1, -2, 0.5, 0.1125, 3, -0.8125), {"mask_lambda": 0.5, "lambda_": 0.3}, rtol=2e-7
    ),
    Example("tall mask", "tall_mask", (1.375, -2, 0.5, 0.375, 3, -0.375), {"mask_lambda": 0.5, "task": 0}),
    Example("pcb v1", "pcb", (1.5, -2.625, 0.25, 0.375, 3, -0.625), {"ratio": 0.5, "variant": "v1"}, rtol=1e-6),
    Example("pcb v2", "pcb", (1.5, -2.625, 0.25, 0.375, 3, -0.628273), {"ratio": 0.5, "variant": "v2"}, rtol=1e-6),
    Example("pcb v3", "pcb", (1.6, -2.75, 0.2, 0.45, 3, -0.552248), {"ratio": 0.5, "weight": 1.2}, rtol=1e-6),
    # The threshold is the maximum: no range, and so no score.
    Example("pcb without a range", "pcb", (1, -2, 0.5, 0, 3, -1), {"ratio": 0.05}),
    Example(
        "fisher",
        "fisher",
        (0.9375, -2.125, 0.40625, 0, 3, -0.875),
        {"epsilon_of": "absolute"},
        importances=FISHER,
        rtol=1e-5,
    ),
    Example(
        "fisher, normalised",
        "fisher",
        (0.920798, -2.183578, 0.431778, 0.044362, 3.026378, -0.910694),
        {"epsilon_of": "absolute", "normalize": True},
        importances=FISHER,
        rtol=1e-5,
    ),
    Example(
        "tatr",
        "tatr",
        (1.1125, -2, 0.4625, 0.1125, 3, -0.8125),
        {"quantile": 0.75},
        importances=GRADIENTS,
        rtol=2e-7,
    ),
    Example("sce", "sce", (1, -2.426724, 0.5, 0.375, 3.75, -1), {"select_topk": 0.5}, rtol=1e-6),
    _crumbs((4, -1, 5, 3, -6, 2), (4, 0, 5, 3, 0, 0)),
    _crumbs((1, 2, 3, 4, 5, 6), (0, 0, 3, 4, 5, 0)),
)


def merged(example: Example, backend: Backend) -> np.ndarray[Any, Any]:
    """What a backend makes of it, float32."""
    method = methods.get(example.method)
    models = [np.ascontiguousarray(row) for row in example.base + example.taus]
    stored = () if example.importances is None else tuple(map(np.ascontiguousarray, example.importances))
    settings = methods.resolve(method, len(models), **example.parameters)
    operands = Operands(
        tuple(map(Buffer.from_numpy, models)),
        Buffer.from_numpy(example.base) if method.roles(settings).base else None,
        tuple(map(Buffer.from_numpy, stored)),
    )
    out = np.full(example.base.shape, np.nan, np.float32)
    piece = Piece(operands, Buffer.from_numpy(out), Place.alone(out.shape, "w"))
    merge_pieces(method, [piece], settings, backend=backend, threads=1)
    return out


def check(example: Example, backend: Backend) -> None:
    """Raise AssertionError where a backend gives anything else."""
    np.testing.assert_allclose(
        merged(example, backend), np.float32(example.expected), rtol=example.rtol, atol=0 if example.rtol == 0 else 1e-6
    )
