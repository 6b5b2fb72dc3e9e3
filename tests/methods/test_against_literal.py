"""Every method of the papers against what the mathematics says, in float64, on a million elements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import xxhash
from worked_examples import Example, merged

from sta_kernels.kernels import get_backend
from sta_kernels.kernels.reference.literal import breadcrumbs, consensus, dare, fisher, pcb, sce, tatr, ties
from sta_kernels.kernels.reference.philox import draws_exact
from sta_kernels.methods.sparse import chance_of

N, TASKS = 1_000_000, 4
WEIGHTS = [0.7, 0.4, 1.1, 0.9]
TENSOR = "w"
ROUNDINGS = 8
"""Steps of a sum over the tasks, each of which may be off by half a unit of its largest operand."""


@dataclass(frozen=True)
class Case:
    """A method and the function that it must equal.

    Attributes:
        method: with its parameters.
        literal: base, models and importances to the merged values in float64.
        undecided: most positions, of a million, at which float32 may decide otherwise: a sum, a mask or a score that
            lies within rounding of its threshold.
        rtol: of the rest, relative to the largest operand.
    """

    method: str
    parameters: dict[str, Any]
    literal: Callable[..., Any]
    undecided: int = 0
    rtol: float = 3e-7
    importances: bool = False
    name: str = field(default="")


def kept_by_draws(share: float, seed: int) -> np.ndarray[Any, Any]:
    index = np.arange(N)
    tensor = xxhash.xxh32_intdigest(TENSOR.encode())
    return np.stack([draws_exact(seed, tensor, task, index) < np.uint64(chance_of(share)) for task in range(TASKS)])


CASES = (
    Case(
        "ties",
        {"density": 0.2, "weight": WEIGHTS},
        lambda b, m, _: ties.ties_tensor_literal(b, m, "0.2", WEIGHTS),
        undecided=5,
    ),
    Case(
        "ties",
        {"density": 0.3, "rescale": "l1", "normalize": False},
        lambda b, m, _: ties.ties_tensor_literal(b, m, "0.3", normalize=False, rescale=True),
        undecided=5,
        name="ties-l1",
    ),
    Case(
        "ties",
        {"density": 0.2, "scope": "model", "lambda_": 0.4},
        lambda b, m, _: ties.ties_model_literal(b, m, "0.2", lambda_=0.4),
        undecided=5,
        name="ties-model",
    ),
    Case(
        "dare_linear",
        {"density": 0.3, "seed": 5, "weight": WEIGHTS},
        lambda b, m, _: dare.dare_linear_literal(b, m, kept_by_draws(0.3, 5), "0.3", WEIGHTS),
    ),
    Case(
        "dare_ties",
        {"density": 0.6, "seed": 9, "rescale": "keep_rate"},
        lambda b, m, _: dare.dare_ties_literal(b, m, kept_by_draws(0.6, 9), "0.6", rescale="keep_rate"),
        undecided=5,
    ),
    Case(
        "breadcrumbs",
        {"density": 0.7, "gamma": 0.02, "weight": WEIGHTS},
        lambda b, m, _: breadcrumbs.breadcrumbs_literal(b, m, "0.7", "0.02", WEIGHTS),
    ),
    Case(
        "breadcrumbs_ties",
        {"density": 0.7, "gamma": 0.02},
        lambda b, m, _: breadcrumbs.breadcrumbs_literal(b, m, "0.7", "0.02", elect=True),
        undecided=5,
    ),
    Case(
        "consensus",
        {"k": 2, "mask_lambda": [0.2, 0.4, 0.6, 0.5], "lambda_": 0.3},
        lambda b, m, _: consensus.consensus_literal(b, m, 2, 0.3, (0.2, 0.4, 0.6, 0.5)),
        undecided=10,
    ),
    *(
        Case(
            "pcb",
            {"ratio": 0.1, "clip": 0.01, "variant": variant, "weight": 1.2},
            lambda b, m, _, variant=variant: pcb.pcb_literal(b, m, "0.1", 1.2, variant, "0.01"),
            undecided=20,
            rtol=3e-5,  # a score just above its threshold is a difference of two nearly equal ones
            name=f"pcb-{variant}",
        )
        for variant in ("v1", "v2", "v3")
    ),
    Case("fisher", {"weight": WEIGHTS}, lambda b, m, f: fisher.fisher_literal(m, f, WEIGHTS), importances=True),
    Case(
        "fisher",
        {"normalize": True, "epsilon_of": "absolute"},
        lambda b, m, f: fisher.fisher_literal(m, f, normalize=True, relative=False),
        importances=True,
        name="fisher-normalised",
    ),
    Case("tatr", {"quantile": 0.9}, lambda b, m, g: tatr.tatr_literal(b, m, g, 0.3, "0.9"), 20, importances=True),
    Case("tatr", {"quantile": 0.5, "zero_shot": True}, lambda b, m, _: tatr.tatr_literal(b, m, None, 0.3, "0.5"), 20),
    Case("sce", {"select_topk": 0.3}, lambda b, m, _: sce.sce_literal(b, m, "0.3"), undecided=20, rtol=1e-6),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name or case.method)
def test_a_million_elements(case: Case) -> None:
    generator = np.random.default_rng(3)
    # Task vectors that float32 holds, of a base that is 0: float32 then ranks them as float64 does.
    taus = generator.normal(0, 1e-3, (TASKS, N)).astype(np.float32)
    base = np.zeros(N, np.float32)
    stored = generator.lognormal(0, 2, (TASKS, N)).astype(np.float32) if case.importances else None
    example = Example(case.method, case.method, (), case.parameters, taus, base, stored)
    got = merged(example, get_backend("native")).astype(np.float64)
    want = case.literal(base, base + taus, stored)
    allowed = case.rtol * ROUNDINGS * np.abs(taus.astype(np.float64)).max(axis=0)
    wrong = np.count_nonzero(~(np.abs(got - want) <= allowed))
    assert wrong <= case.undecided
    assert np.count_nonzero(want) > N // 20
