"""Cases to compile: a covering set for every run of the tests, and everything that launches choose among."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from sta_kernels.kernels.buffers import DType
from sta_kernels.kernels.triton import evaluate
from sta_kernels.kernels.triton.audit import formulas
from sta_kernels.kernels.triton.audit.families import Case
from sta_kernels.kernels.triton.sta_merge_constants import MOST_IN_REGISTERS

_F32, _BF16, _F16 = DType.F32, DType.BF16, DType.F16
_STORAGES = ((_F32, _F32), (_BF16, _F32), (_BF16, _BF16), (_F16, _F32), (_F16, _F16))


def variant(**options: Any) -> tuple[tuple[str, Any], ...]:
    """What a launch is asked for, by name."""
    return tuple(options.items())


def _formula(name: str, *form: int, dtype: DType = _F32, importance: DType | None = None, n: int) -> Case:
    options = {"formula": name, **({"form": form} if form else {})}
    return Case("evaluate", dtype, dtype if importance is None else importance, n, variant(**options))


COVERING: tuple[Case, ...] = (
    Case("sta_merge", n=2, variant=variant(counted=True)),
    Case("sta_merge", n=6),
    Case("sta_merge", _BF16, _F32, n=6),
    Case("sta_merge", _BF16, _BF16, n=8),
    Case("sta_merge", n=16),
    Case("sta_merge", _F16, _F16, n=4, variant=variant(measure="amp")),
    Case("sta_merge", _BF16, _F32, n=5, variant=variant(measure="lp_amp", weighted=True)),
    Case("sta_forget", _BF16, _F32),
    Case("weighted_sum", _BF16, _BF16, n=8),
    Case("taylor_accumulate", _BF16, _F32),
    Case("taylor_finish", _BF16, _F32),
    Case("ranges"),
    Case("ranges_leaf_sums", _BF16, _BF16),
    Case("first_nonfinite", _BF16, _BF16),
    Case("histogram"),
    Case("count_equal"),
    Case("gates"),
    _formula("sparse_sum", 1, 1, 0, n=6),
    _formula("fisher", dtype=_BF16, importance=_F32, n=6),
)
"""Every kernel, dtype and variant at least once: what `make test` compiles for every architecture."""

FORMULAS: tuple[Case, ...] = (
    _formula("distance", dtype=_BF16, n=1),
    _formula("sparse_sum", 0, 0, 0, dtype=_BF16, n=8),
    _formula("sparse_sum", 0, 1, 1, dtype=_F16, n=8),
    _formula("sparse_sum", 1, 0, 0, dtype=_BF16, n=2),
    _formula("sparse_sum", 1, 1, 1, dtype=_BF16, n=8),
    _formula("sparse_sum", 2, 0, 0, n=8),
    _formula("sparse_sum", 2, 1, 0, dtype=_BF16, n=6),
    _formula("sparse_sum", 3, 0, 0, dtype=_F16, n=6),
    _formula("sparse_sum", 3, 1, 1, dtype=_BF16, importance=_F32, n=8),
    _formula("agreement", dtype=_F16, n=6),
    _formula("fisher", dtype=_BF16, n=8),
    _formula("sce", dtype=_BF16, n=8),
    _formula("sce_energy", n=2),
    _formula("trust_region", 0, dtype=_BF16, n=8),
    _formula("trust_region", 1, n=6),
    _formula("pcb", 1, n=6),
    _formula("pcb", 2, dtype=_BF16, n=2),
    _formula("pcb", 3, n=2),
    _formula("nearswap", n=1),
    _formula("arcee_fusion", dtype=_BF16, n=1),
    _formula("scaled_sum", 1, dtype=_BF16, n=6),
)
"""What `make test` compiles for one architecture alone: formulas by gate, election, dtype and number of models."""

FORMULAS_ON = "sm_90"

_FORMS: dict[str, tuple[tuple[int, ...], ...]] = {
    **dict.fromkeys(("sparse_sum",), tuple((gate, *rest) for gate in range(4) for rest in ((0, 0), (1, 0), (1, 1)))),
    "elected_sign": tuple((gate, 1, 0) for gate in range(4)),
    "sparse_distance": ((1, 0, 0), (2, 0, 0)),
    **dict.fromkeys(("trust_region", "conflict", "product", "scaled_sum"), ((0,), (1,))),
    **dict.fromkeys(("pcb", "pcb_score"), ((1,), (2,), (3,))),
}
_ONE_MODEL = ("distance", "sparse_distance", "nearswap", "arcee_fusion", "arcee_importance")


def covering(archs: Iterable[str]) -> list[tuple[Case, str]]:
    """What is compiled by default, for the architectures among those given."""
    chosen = list(archs)
    pairs = [(case, arch) for case in COVERING for arch in chosen]
    return pairs + [(case, FORMULAS_ON) for case in FORMULAS if FORMULAS_ON in chosen]


def every_case() -> tuple[Case, ...]:
    """All that launches choose among, of the kernels' fast paths: up to 16 tasks, and 8 models of formulas."""
    merges: list[dict[str, Any]] = [
        {},
        {"measure": "amp"},
        {"measure": "lp_amp"},
        {"weighted": True},
        {"counted": True},
        {"ties": "all"},
        {"measure": "lp_amp", "weighted": True, "counted": True},  # takes most registers
    ]
    tasks = range(2, MOST_IN_REGISTERS + 1)
    measures = ("lp", "amp", "lp_amp")
    cases = [
        Case("sta_merge", weights, importance, n, variant(**merge))
        for (weights, importance), n, merge in itertools.product(_STORAGES, tasks, merges)
    ]
    for both in _STORAGES:
        cases += [Case("weighted_sum", both[0], both[0], n) for n in tasks]
        cases += [Case("weighted_sum", both[0], both[0], n, variant(base=False, divisor=3.0)) for n in tasks]
        cases += [Case("taylor_accumulate", *both), Case("first_nonfinite", both[0], both[0]), Case("histogram", *both)]
        for measure in measures:
            cases += [Case("sta_forget", *both, 1, variant(measure=measure, merged=merged)) for merged in (False, True)]
            cases += [
                Case(op, *both, 1, variant(measure=measure))
                for op in ("taylor_finish", "ranges", "leaf_sums", "ranges_leaf_sums", "count_equal")
            ]
    return tuple(dict.fromkeys((*COVERING, *FORMULAS, *cases, *_every_formula())))


def _every_formula() -> Iterator[Case]:
    for name in evaluate.FORMULAS:
        numbers = (1,) if name in _ONE_MODEL else (2,) if name == "product" else (2, 4, 6, 8)
        for form, n in itertools.product(_FORMS.get(name, ((),)), numbers):
            for dtype, importance in _STORAGES:
                if dtype is importance or formulas.reads_importances(name, form):
                    yield _formula(name, *form, dtype=dtype, importance=importance, n=n)
