"""Formulas with operands, for the comparison of backends: realistic parameters, and all that could round apart.

Sizes lie around the lengths of vectors and leaves, offsets are such that a block of random numbers begins within a
vector, or its counter carries into the second word; thresholds equal entries, and cuts fall among their ties.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from kernel_cases import importance, stored, weights

from sta_kernels.kernels.buffers import Buffer, DType
from sta_kernels.kernels.formula import Formula, FormulaSource
from sta_kernels.kernels.numpy_backend import NumpyBackend
from sta_kernels.kernels.reference.formulas import FORMULAS
from sta_kernels.kernels.reference.philox import draws_exact

NAMES = tuple(sorted(FORMULAS))
KINDS = ("plain", "ties", "edges")
SIZES = (1, 7, 15, 63, 64, 65, 500, 1000, 4095, 4096, 4097)
N_MODELS = (4, 1, 3, 2, 9, 5, 8)
OFFSETS = (0, 1, 4094, (1 << 35) - 30, (1 << 40) + 3)
LAMBDAS = (1.0, 0.3, -0.5)
_REFERENCE = NumpyBackend()
_ALWAYS = 1 << 32

Variants = Callable[[np.random.Generator, FormulaSource, int], Formula]
"""The formula of one case: random numbers, its operands under a formula that does not matter, the case's number."""


@functools.cache
def formula_cases(name: str, *, nonfinite: bool = False, dtype: DType | None = None) -> tuple[FormulaSource, ...]:
    """Cases of one formula.

    Args:
        name: one of :data:`NAMES`.
        nonfinite: with a NaN and infinities among the operands, of which NaN payloads may differ between backends.
        dtype: of all operands; None: a mixture.
    """
    make, count = _MAKERS[name]
    kinds = ("nonfinite",) if nonfinite else KINDS
    return tuple(_case(name, make, number, kinds[number % len(kinds)], dtype) for number in range(count))


def large_case(name: str, n: int) -> FormulaSource:
    """A case of three float32 models of that many elements."""
    rng = np.random.default_rng(n)
    return _with_formula(name, _MAKERS[name][0], rng, operands(rng, n, 3, "plain", itertools.repeat(DType.F32)), 1)


def operands(
    rng: np.random.Generator, n: int, n_models: int, kind: str, dtypes: Iterator[DType], offset: int = 0
) -> FormulaSource:
    """A base, models near it, and importances, under a formula that does not matter."""
    base = weights(rng, n, kind)
    if kind == "ties":  # on a grid that every dtype holds
        base = (rng.integers(-16, 17, n) / 8).astype(np.float32)
    models = [_model(rng, base, kind) for _ in range(n_models)]
    importances = [np.abs(importance(rng, n, "ties" if kind == "ties" else "plain")) for _ in range(n_models)]
    for values in importances:
        values[rng.random(n) < 0.4] = 0
    importances[0][rng.random(n) < 0.1] = -0.0
    if kind == "nonfinite":
        for values in (base, *models, *importances):
            for wrong in (np.nan, np.inf, -np.inf):
                values[rng.random(n) < 0.05] = wrong
    buffers = [_buffer(values, next(dtypes)) for values in (base, *models, *importances)]
    placeholder = Formula("distance")
    return FormulaSource(
        placeholder, tuple(buffers[1 : n_models + 1]), buffers[0], tuple(buffers[n_models + 1 :]), offset
    )


def same_values(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], dtype: DType = DType.F32) -> bool:
    """Equal to the last bit, but that any NaN is like any other."""
    if dtype is DType.BF16:
        magnitude = np.uint16(0x7FFF)
        unlike = (a != b) & ~(((a & magnitude) > 0x7F80) & ((b & magnitude) > 0x7F80))
        return not unlike.any()
    bits = f"u{a.itemsize}"
    return not ((a.view(bits) != b.view(bits)) & ~(np.isnan(a) & np.isnan(b))).any()


def _model(rng: np.random.Generator, base: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    if kind == "edges" and rng.random() < 0.5:
        return weights(rng, len(base), kind)
    if kind == "ties":
        delta = (rng.integers(-3, 4, len(base)) / 8).astype(np.float32)
    else:
        delta = rng.standard_normal(len(base), np.float32) * np.float32(0.001)
        delta[rng.random(len(base)) < 0.2] = 0
    return base + delta


def _buffer(values: np.ndarray[Any, Any], dtype: DType) -> Buffer:
    return Buffer.from_numpy(stored(values, dtype), dtype)


def _case(name: str, make: Variants, number: int, kind: str, dtype: DType | None) -> FormulaSource:
    rng = np.random.default_rng((number, *name.encode()))
    n_models = 1 if name in _OF_ONE_MODEL else N_MODELS[number % len(N_MODELS)]
    dtypes: Iterator[DType] = (DType(int(code)) for code in iter(lambda: rng.integers(4), None))
    if dtype is not None or number % 3 == 1:
        dtypes = itertools.repeat(DType.F32 if dtype is None else dtype)
    n, offset = SIZES[(3 * number + 1) % len(SIZES)], OFFSETS[number % len(OFFSETS)]
    return _with_formula(name, make, rng, operands(rng, n, n_models, kind, dtypes, offset), number)


def _with_formula(
    name: str, make: Variants, rng: np.random.Generator, given: FormulaSource, number: int
) -> FormulaSource:
    source = replace(given, formula=make(rng, given, number))
    if source.formula.name in _WITHOUT_BASE or (name in _ALSO_WITHOUT_BASE and number % 4 == 3):
        source = replace(source, base=None)
    if name in _WITHOUT_IMPORTANCES and number % 2:
        source = replace(source, importances=())
    return source


def _quantile(given: FormulaSource, formula: Formula, share: float) -> float:
    """A finite value that the formula takes, that share of the others below it; 0 if there is none."""
    values = _REFERENCE.values(replace(given, formula=formula), 0, given.size)
    finite = np.sort(values[np.isfinite(values)])
    return float(finite[int(share * (finite.size - 1))]) if finite.size else 0.0


def _of_task(given: FormulaSource, task: int) -> FormulaSource:
    return replace(given, models=given.models[task : task + 1])


def _factors(rng: np.random.Generator, given: FormulaSource) -> list[float]:
    return [
        float(np.float32(rng.choice((1.0, 0.3, -0.7, 0.0, 2.5), p=(0.3, 0.3, 0.1, 0.1, 0.2)))) for _ in given.models
    ]


def _cut(rng: np.random.Generator, given: FormulaSource) -> int:
    n = given.size
    return int(rng.choice((0, given.offset, given.offset + n // 2, given.offset + n // 3, given.offset + n, 1 << 62)))


def _sparse(name: str) -> Variants:
    def make(rng: np.random.Generator, given: FormulaSource, number: int) -> Formula:
        gate, elects, normalises = number % 4, number // 4 % 2, number // 8 % 2
        distance, rows = Formula("distance"), []
        integers = [int(rng.integers(1 << 63)) | 1 << 63, int(rng.integers(1 << 32))]
        for task, weight in enumerate(_factors(rng, given)):
            of_task = _of_task(given, task)
            upper, lower = (_quantile(of_task, distance, share) for share in (0.9, 0.3))
            scale = float(np.float32(rng.choice((1.0, 1.7, 1 / 0.3))))
            rows.append((weight, scale, float(np.inf) if number % 3 == 0 else upper, lower))
            number_of_task = task if number % 2 else int(rng.integers(1 << 32))
            # A draw of some element, or the next number: the low half of that draw decides.
            element = given.offset + rng.integers(given.size, size=1)
            drawn = int(draws_exact(integers[0], integers[1], number_of_task, element)[0])
            among = (0, 1, int(0.4 * _ALWAYS), _ALWAYS // 2, drawn, drawn + 1, _ALWAYS - 1, _ALWAYS)
            kept = int(rng.choice(among, p=(0.1, 0.05, 0.2, 0.1, 0.2, 0.2, 0.05, 0.1)))
            integers += [_cut(rng, given), _cut(rng, given), kept, number_of_task]
        shared: tuple[float, ...] = ()
        if name != "sparse_distance":
            shared = LAMBDAS[number % 3], (1.0, 1.7, 0.0)[number // 2 % 3], (1.0, 0.0, -1.0)[number // 3 % 3]
        return Formula(name, (gate, elects, normalises), shared, tuple(rows), tuple(integers))

    return make


def _agreement(rng: np.random.Generator, given: FormulaSource, number: int) -> Formula:
    rows = tuple((float(np.float32(rng.choice((0.2, 0.5, 1.0)))), float(rng.random() < 0.8)) for _ in given.models)
    return Formula("agreement", (), (LAMBDAS[number % 3],), rows, (int(rng.integers(-1, len(given.models) + 2)),))


def _fisher(rng: np.random.Generator, given: FormulaSource, number: int) -> Formula:
    floor = (0.0, 1e-6, 1e-3)[number % 3]
    return Formula("fisher", (), (), tuple((factor, floor) for factor in _factors(rng, given)))


def _pcb(name: str) -> Variants:
    def make(rng: np.random.Generator, given: FormulaSource, number: int) -> Formula:
        form, tasks = number % 3 + 1, range(len(given.models))
        distance = Formula("distance")
        low, high = (0.02, 0.98) if number % 5 else (0.5, 0.5)  # no range at all
        clips = tuple(
            tuple(_quantile(_of_task(given, task), distance, share) for share in (low, high)) for task in tasks
        )
        if name == "pcb_score":
            return Formula(name, (form,), (), clips, (int(rng.integers(len(tasks))),))
        rows = []
        for task, (clip, weight) in enumerate(zip(clips, _factors(rng, given), strict=True)):
            score = Formula("pcb_score", (form,), (), clips, (task,))
            least, greatest = (_quantile(given, score, share) for share in (0.3, 1 if number % 7 else 0.3))
            rows.append((*clip, weight, least, greatest))
        return Formula(name, (form,), (LAMBDAS[number % 3],), tuple(rows))

    return make


def _sce(name: str) -> Variants:
    def make(rng: np.random.Generator, given: FormulaSource, number: int) -> Formula:
        threshold = _quantile(given, Formula("variance"), (0.0, 0.5, 0.8)[number % 3])
        shared, integers = (LAMBDAS[number % 3], threshold), (_cut(rng, given),)
        if name == "sce_energy":
            return Formula(name, (), shared, (), (*integers, int(rng.integers(len(given.models)))))
        return Formula(name, (), shared, tuple((factor,) for factor in _factors(rng, given)), integers)

    return make


def _trust_region(rng: np.random.Generator, given: FormulaSource, number: int) -> Formula:
    form = (number % 2,)
    threshold = _quantile(given, Formula("conflict", form), 0.8)
    shared = (LAMBDAS[number % 3], threshold)
    return Formula("trust_region", form, shared, tuple((factor,) for factor in _factors(rng, given)))


def _arcee_fusion(rng: np.random.Generator, given: FormulaSource, number: int) -> Formula:
    return Formula("arcee_fusion", (), (_quantile(given, Formula("arcee_importance"), 0.6),))


def _nearswap(rng: np.random.Generator, given: FormulaSource, number: int) -> Formula:
    return Formula("nearswap", (), ((0.0, 1e-7, 0.0005, 1.0, -0.1)[number % 5],))


def _plain(name: str, *variants: tuple[int, ...]) -> Variants:
    return lambda rng, given, number: Formula(name, variants[number % len(variants)] if variants else ())


_MAKERS: dict[str, tuple[Variants, int]] = {
    "agreement": (_agreement, 15),
    "arcee_fusion": (_arcee_fusion, 11),
    "arcee_importance": (_plain("arcee_importance"), 11),
    "conflict": (_plain("conflict", (0,), (1,)), 14),
    "distance": (_plain("distance"), 11),
    "elected_sign": (_sparse("elected_sign"), 16),
    "fisher": (_fisher, 15),
    "nearswap": (_nearswap, 11),
    "pcb": (_pcb("pcb"), 15),
    "pcb_score": (_pcb("pcb_score"), 15),
    "product": (_plain("product", (0,), (1,)), 14),
    "scaled_sum": (_plain("scaled_sum", (0,), (1,)), 14),
    "sce": (_sce("sce"), 15),
    "sce_energy": (_sce("sce_energy"), 15),
    "sparse_distance": (_sparse("sparse_distance"), 16),
    "sparse_sum": (_sparse("sparse_sum"), 48),
    "trust_region": (_trust_region, 14),
    "variance": (_plain("variance"), 14),
}
"""Per formula, what makes its parameters, and how many cases there are."""

_OF_ONE_MODEL = frozenset({"arcee_fusion", "arcee_importance", "distance", "nearswap", "sparse_distance"})
_WITHOUT_BASE = frozenset({"fisher"})
_ALSO_WITHOUT_BASE = frozenset({"distance", "product", "scaled_sum", "sparse_sum"})
_WITHOUT_IMPORTANCES = frozenset(
    {"agreement", "distance", "nearswap", "pcb", "pcb_score", "product", "sce", "variance"}
)
