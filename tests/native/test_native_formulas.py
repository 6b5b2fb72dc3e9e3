"""Formulas: every instruction set, tile size and number of threads gives the bits of the NumPy reference."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from formula_cases import NAMES, formula_cases, large_case, operands, same_values
from kernel_cases import poisoned

from sta_kernels.errors import InputError
from sta_kernels.kernels.buffers import Buffer, DType, ImportanceSource
from sta_kernels.kernels.formula import Formula, FormulaSource
from sta_kernels.kernels.native import NativeBackend
from sta_kernels.kernels.numpy_backend import NumpyBackend

REFERENCE = NumpyBackend()
TILES = (None, 64, 192)
THREADS = (1, 2, 5)
LARGE = 2 * 65536 + 4099
"""Elements of three chunks, which as many threads share."""
every_formula = pytest.mark.parametrize("name", NAMES)


@functools.cache
def expected_values(name: str, number: int, nonfinite: bool) -> np.ndarray[Any, Any]:
    source = formula_cases(name, nonfinite=nonfinite)[number]
    return REFERENCE.values(source, 0, source.size)


@functools.cache
def expected_output(name: str, number: int, nonfinite: bool, dtype: DType) -> np.ndarray[Any, Any]:
    return evaluated(REFERENCE, formula_cases(name, nonfinite=nonfinite)[number], dtype)


@functools.cache
def expected_of_dtype(name: str, number: int, dtype: DType) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    source = formula_cases(name, dtype=dtype)[number]
    return REFERENCE.values(source, 0, source.size), evaluated(REFERENCE, source, dtype)


def evaluated(backend: Any, source: FormulaSource, dtype: DType, threads: int = 1) -> np.ndarray[Any, Any]:
    out, buffer = poisoned(source.size, dtype)
    backend.evaluate(source, out=buffer, threads=threads)
    return out


def rearranged(source: FormulaSource, layout: Callable[[np.ndarray], np.ndarray]) -> FormulaSource:
    """The same elements in another place or order of memory."""

    def move(buffer: Buffer) -> Buffer:
        return Buffer.from_numpy(layout(buffer.numpy()), buffer.dtype)

    return replace(
        source,
        models=tuple(map(move, source.models)),
        base=None if source.base is None else move(source.base),
        importances=tuple(map(move, source.importances)),
    )


def stepped(array: np.ndarray) -> np.ndarray:
    return np.repeat(array, 3)[1::3]


def backwards(array: np.ndarray) -> np.ndarray:
    return array[::-1].copy()[::-1]


def misaligned(array: np.ndarray) -> np.ndarray:
    room = np.empty(array.nbytes + 1, np.uint8)
    view = room[1:].view(array.dtype)
    view[:] = array
    return view


@every_formula
@pytest.mark.parametrize("nonfinite", [False, True], ids=["finite", "nonfinite"])
def test_evaluate(isa: str, name: str, nonfinite: bool) -> None:
    ways = itertools.product(TILES, (None, 1))
    for number, source in enumerate(formula_cases(name, nonfinite=nonfinite)):
        dtype = DType((number + len(isa)) % 4)
        expected = expected_output(name, number, nonfinite, dtype)
        for tile, streaming_bytes in (next(ways, (None, None)), (TILES[number % 3], 1)):
            out = evaluated(NativeBackend(isa, tile, streaming_bytes), source, dtype, THREADS[number % 3])
            assert same_values(out, expected, dtype), (number, source, dtype, tile)


@every_formula
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16, DType.F16])
def test_operands_and_result_of_one_dtype(isa: str, name: str, dtype: DType) -> None:
    """Those are read and written in registers, but for the last elements."""
    for number, source in enumerate(formula_cases(name, dtype=dtype)):
        backend = NativeBackend(isa, (None, 64)[number // 4 % 2], (None, 1)[number // 2 % 2])
        values, expected = expected_of_dtype(name, number, dtype)
        assert same_values(backend.values(source, 0, source.size), values), (number, source)
        assert same_values(evaluated(backend, source, dtype), expected, dtype), (number, source)
        own = rearranged(source, np.copy)
        target = own.operands[number % len(own.operands)]
        backend.evaluate(own, out=target, threads=2)
        assert same_values(target.numpy(), expected, dtype), (number, source)


@every_formula
@pytest.mark.parametrize("layout", [stepped, backwards, misaligned])
def test_evaluate_operands_of_any_layout(isa: str, name: str, layout: Callable[[np.ndarray], np.ndarray]) -> None:
    backend = NativeBackend(isa, 192)
    for number, source in enumerate(formula_cases(name)[:9]):
        dtype = DType(number % 4)
        place = layout(poisoned(source.size, dtype)[0])
        backend.evaluate(rearranged(source, layout), out=Buffer.from_numpy(place, dtype), threads=2)
        assert same_values(np.ascontiguousarray(place), expected_output(name, number, False, dtype), dtype)


@pytest.mark.parametrize("name", ["sparse_sum", "sce", "fisher", "pcb", "trust_region"])
def test_evaluate_into_an_operand(native: NativeBackend, name: str) -> None:
    for number, source in enumerate(formula_cases(name)):
        for target in range(len(source.operands)):
            own = rearranged(source, np.copy)
            out = own.operands[target]
            native.evaluate(own, out=out, threads=2)
            assert same_values(out.numpy(), expected_output(name, number, False, out.dtype), out.dtype)


def test_where_delta_is_zero_the_base_keeps_its_bits(native: NativeBackend) -> None:
    base = np.array([-0.0, 0.1, 1e-300, 3.0] * 20)
    model = Buffer.from_numpy(base + np.tile([0.0, 0.0, 0.0, 1.0], 20))
    formula = Formula("sparse_sum", (0, 0, 0), (1.0, 1.0, 0.0), ((1.0, 1.0, 0.0, 0.0),), (0, 0, 0, 0, 0, 0))
    out = evaluated(native, FormulaSource(formula, (model,), Buffer.from_numpy(base)), DType.F64)
    assert out.tobytes() == np.where(base == 3, 4.0, base).tobytes()


@every_formula
def test_fields(isa: str, name: str) -> None:
    for number, source in enumerate(formula_cases(name) + formula_cases(name, nonfinite=True)[:5]):
        backend, threads = NativeBackend(isa, TILES[number % 3]), THREADS[number % 2]
        n, count = source.size, len(formula_cases(name))
        values = expected_values(name, number % count, number >= count)
        start = n // 3
        assert same_values(backend.values(source, start, n), values[start:])
        check_range(backend, source, threads)
        check_selection(backend, source, values, threads)


def check_range(backend: NativeBackend, source: FormulaSource, threads: int) -> None:
    results = []
    for each in (REFERENCE, backend):
        minmax, leaves = np.array([[np.inf, -np.inf]], np.float32), [np.full(-(-source.size // 4096), np.nan)]
        each.ranges([source], minmax, leaves, threads=threads)
        results.append((minmax[0], *leaves))
    for ours, theirs in zip(*results, strict=True):
        assert same_values(ours, theirs)


def check_selection(backend: NativeBackend, source: FormulaSource, values: np.ndarray, threads: int) -> None:
    ordered = np.sort(values)
    for k in {1, source.size // 2 + 1, source.size}:
        value = backend.order_statistic(source, k, threads=threads)
        assert np.array_equal(value, ordered[k - 1], equal_nan=True)
        counts = np.full((2, -(-source.size // 4096)), 77, np.uint32)
        greater = [
            each.count_equal(source, value, counts=row, threads=threads)
            for each, row in zip((REFERENCE, backend), counts, strict=True)
        ]
        assert greater[0] == greater[1]
        assert np.array_equal(*counts)
    digits = np.zeros((2, 1 << 11), np.uint64)
    for each, row in zip((REFERENCE, backend), digits, strict=True):
        each.histogram(source, prefix=0, prefix_bits=0, digit_bits=11, counts=row, threads=threads)
    assert np.array_equal(*digits)


@every_formula
def test_chunks_on_threads(native: NativeBackend, name: str) -> None:
    source = large_case(name, LARGE)
    expected = evaluated(REFERENCE, source, DType.F32)
    ordered = np.sort(REFERENCE.values(source, 0, LARGE))
    for threads in THREADS:
        assert same_values(evaluated(native, source, DType.F32, threads), expected)
        assert native.order_statistic(source, LARGE // 3, threads=threads) == ordered[LARGE // 3 - 1]
        check_range(native, source, threads)


@pytest.mark.parametrize("name", ["distance", "sparse_distance", "variance"])
def test_order_statistic_of_a_field_that_is_sampled_first(native: NativeBackend, name: str) -> None:
    source = large_case(name, (1 << 20) + 5)
    ordered = np.sort(REFERENCE.values(source, 0, source.size))
    for k in (1, source.size // 2, source.size // 10 * 9, source.size):
        assert native.order_statistic(source, k, threads=2) == ordered[k - 1]


def test_ranges_of_importances_and_fields_together(native: NativeBackend) -> None:
    source = formula_cases("variance")[3]
    stored = ImportanceSource("lp", source.models[0])
    sources = [stored, source, stored, formula_cases("distance")[4]]
    results = []
    for backend in (REFERENCE, native):
        minmax = np.array([[np.inf, -np.inf]] * 4, np.float32)
        leaves = [np.zeros(-(-each.size // 4096)) for each in sources]
        backend.ranges(sources, minmax, leaves, threads=2)
        results.append((minmax, np.concatenate(leaves)))
    for ours, theirs in zip(*results, strict=True):
        assert same_values(ours, theirs)


def fields_that_share_operands(n: int, dtype: DType) -> list[FormulaSource]:
    """More than a pass takes in together, with operands that many read, that one reads, and that are not there."""
    given = operands(np.random.default_rng(n), n, 3, "edges", itertools.repeat(dtype))
    base, models = given.base, given.models
    spread = np.repeat(models[0].numpy(), 2)[::2]
    gated = [
        Formula("sparse_distance", (2, 0, 0), (), ((1.0, 1.0, np.inf, -1.0),), (7, 42, 0, 0, 3 << 30, task))
        for task in range(3)
    ]
    fields = [
        *(FormulaSource(Formula("distance"), (model,), base) for model in models),
        *(FormulaSource(formula, (model,), base, (), 5) for formula, model in zip(gated, models, strict=True)),
        *(
            FormulaSource(Formula("product", (centred,)), pair, base if centred else None)
            for centred in (0, 1)
            for pair in itertools.combinations_with_replacement(models, 2)
        ),
        FormulaSource(Formula("distance"), (Buffer.from_numpy(spread, dtype),), base),
        FormulaSource(Formula("fisher", (), (), ((1.0, 0.5),) * 3), models, None, given.importances),
    ]
    many = FormulaSource(Formula("variance"), models * 5, base)  # more than go together
    return [*fields, many, many, many, replace(fields[0], models=(models[2],))]


@pytest.mark.parametrize("n", [0, 1, 100, 4097, 70_001])
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_reductions_of_fields_that_share_operands(native: NativeBackend, n: int, dtype: DType) -> None:
    sources = fields_that_share_operands(n, dtype)

    def reduced(backend: Any, *, ends: bool, sums: bool) -> tuple[np.ndarray, np.ndarray]:
        minmax = np.array([[np.inf, -np.inf]] * len(sources), np.float32)
        leaves = [np.zeros(-(-n // 4096)) for _ in sources]
        backend.ranges(sources, minmax if ends else None, leaves if sums else None, threads=2)
        return minmax, np.concatenate(leaves)

    minmax, leaves = reduced(REFERENCE, ends=True, sums=True)
    found = [reduced(native, ends=ends, sums=sums) for ends, sums in ((True, True), (True, False), (False, True))]
    assert all(same_values(ends, minmax) for ends, _ in found[:2])
    assert all(same_values(sums, leaves) for _, sums in found[::2])


def test_count_equal_of_an_importance(native: NativeBackend) -> None:
    values = np.repeat(np.float32([1, 2, 3]), (5000, 4000, 3000))
    counts = np.zeros(3, np.uint32)
    greater = native.count_equal(ImportanceSource("lp", Buffer.from_numpy(values)), 2.0, counts=counts, threads=2)
    assert greater == 3000
    assert counts.tolist() == [0, 8192 - 5000, 9000 - 8192]


def shortened(formula: Formula) -> list[Formula]:
    """The formula with one parameter fewer of each sort."""
    fewer = [replace(formula, **{field: getattr(formula, field)[:-1]}) for field in ("variant", "shared", "integers")]
    if formula.per_model:
        fewer.append(replace(formula, per_model=tuple(row[:-1] for row in formula.per_model)))
    return [each for each in fewer if each != formula]


@every_formula
def test_too_few_parameters_are_refused(name: str) -> None:
    source = formula_cases(name)[0]
    given = shortened(source.formula)
    if name in ("fisher", "arcee_fusion", "arcee_importance", "scaled_sum"):
        with pytest.raises(RuntimeError, match="argument is outside its range"):
            evaluated(NativeBackend(), replace(source, importances=()), DType.F32)
    for formula in given:
        with pytest.raises(RuntimeError, match="sta_evaluate: an argument is outside its range"):
            evaluated(NativeBackend(), replace(source, formula=formula), DType.F32)
        with pytest.raises(RuntimeError, match="sta_order_statistic: an argument is outside its range"):
            NativeBackend().order_statistic(replace(source, formula=formula), 1, threads=1)


def test_parameters_that_would_be_misread_are_refused() -> None:
    native = NativeBackend()
    sparse, energy, score = (formula_cases(name)[0] for name in ("sparse_sum", "sce_energy", "pcb_score"))
    conflict = formula_cases("conflict")[0]
    wrong = [
        replace(sparse, formula=replace(sparse.formula, variant=(4, 0, 0))),
        replace(sparse, formula=replace(sparse.formula, variant=(3, 0, 0)), importances=()),
        replace(sparse, importances=sparse.importances[:-1]),
        replace(sparse, offset=-1),
        replace(energy, formula=replace(energy.formula, integers=(0, len(energy.models)))),
        replace(score, formula=replace(score.formula, integers=(-1,))),
        replace(score, formula=replace(score.formula, variant=(0,))),
        replace(conflict, importances=()),
    ]
    for source in wrong:
        with pytest.raises(RuntimeError, match="sta_evaluate: an argument is outside its range"):
            evaluated(native, source, DType.F32)
    with pytest.raises(LookupError, match="no formula 'nonsense'"):
        evaluated(native, replace(sparse, formula=Formula("nonsense")), DType.F32)
    with pytest.raises(ValueError, match="rows for"):
        evaluated(native, replace(sparse, models=sparse.models[:-1]), DType.F32)


def test_many_models() -> None:
    rng = np.random.default_rng(0)
    given = operands(rng, 100, 256, "plain", itertools.repeat(DType.F32))
    source = replace(given, formula=Formula("agreement", (), (1.0,), ((0.5, 1.0),) * 256, (3,)))
    for threads in (1, 2):
        assert same_values(
            evaluated(NativeBackend(), source, DType.F32, threads), evaluated(REFERENCE, source, DType.F32)
        )
    with pytest.raises(InputError, match="at most 256"):
        evaluated(NativeBackend(), replace(source, models=source.models * 2), DType.F32)
