"""The backend's calls on formulas: statistics of fields in bounded parts, merges queued, rows gated by rank."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from kernel_operands import Operand, same_floats, values

from sta_kernels.kernels.buffers import Buffer, DType, ImportanceSource
from sta_kernels.kernels.formula import Formula, FormulaSource
from sta_kernels.kernels.numpy_backend import NumpyBackend
from sta_kernels.kernels.triton import backend as triton_backend
from sta_kernels.kernels.triton import fields, packing, reductions
from sta_kernels.kernels.triton.backend import TritonBackend

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

F32, BF16, F16, F64 = DType.F32, DType.BF16, DType.F16, DType.F64
REFERENCE, TRITON = NumpyBackend(), TritonBackend("cpu")
LEAF = 4096


@pytest.fixture(params=[4 * LEAF, LEAF], ids=["all at once", "in parts"], autouse=True)
def scratch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Room for fields."""
    for module in (fields, reductions):
        monkeypatch.setattr(module, "SCRATCH", request.param)
    return request.param


def field(size: int, *, special: float = 0.0) -> FormulaSource:
    """``|τ|`` within a band, many of them alike, with a cut among the ties of its upper end."""
    rng = np.random.default_rng(size)
    base, model = (values(rng, F32, size, special=special) for _ in range(2))
    tied = rng.random(size) < 0.5
    base.array[tied], model.array[tied] = 1.0, rng.integers(0, 4, int(tied.sum()))
    formula = Formula("sparse_distance", (1, 0, 0), (), ((0.0, 0.0, 2.0, 0.5),), (0, 0, size // 2, 0, 0, 0))
    return FormulaSource(formula, (model.buffer(),), base.buffer(), (), 3)


def ties(size: int, dtypes: tuple[DType, DType] = (F32, F32)) -> FormulaSource:
    """A merge of two models by an elected sign."""
    rng = np.random.default_rng(size)
    base, *models = (values(rng, dtype, size).buffer() for dtype in (dtypes[0], *2 * dtypes[1:]))
    formula = Formula("sparse_sum", (0, 1, 1), (0.7, 1.0, 1.0), ((1.0, 1.0, 0.0, 0.0),) * 2, (0,) * 10)
    return FormulaSource(formula, tuple(models), base)


@pytest.mark.parametrize("special", [0.0, 0.01])
def test_ranges_and_sums(special: float) -> None:
    rng = np.random.default_rng(1)
    stored = ImportanceSource("lp", values(rng, BF16, 700).buffer())
    sources = [field(LEAF + 5, special=special), stored, field(300, special=special)]
    for with_leaves in (False, True):
        found = []
        for backend in (REFERENCE, TRITON):
            minmax = np.tile(np.array((np.inf, -np.inf), np.float32), (len(sources), 1))
            leaves = [np.full(-(-one.size // LEAF), np.nan) for one in sources] if with_leaves else None
            backend.ranges(sources, minmax, leaves, threads=1)
            found.append((minmax, leaves or []))
        assert same_floats(found[1][0], found[0][0])
        assert all(same_floats(ours, theirs) for ours, theirs in zip(found[1][1], found[0][1], strict=True))


def test_order_statistics() -> None:
    rng = np.random.default_rng(2)
    stored = ImportanceSource("lp", values(rng, F32, 500).buffer())
    sources = [field(LEAF + 5, special=0.01), stored, field(300)]
    for ks in ([1, 1, 1], [one.size // 2 for one in sources], [one.size for one in sources]):
        ours = np.array(TRITON.order_statistics(sources, ks, threads=1), np.float32)
        assert same_floats(ours, np.array(REFERENCE.order_statistics(sources, ks, threads=1), np.float32))
    with pytest.raises(ValueError, match="k = 301"):
        TRITON.order_statistic(sources[2], 301, threads=1)


def test_histograms() -> None:
    one = field(LEAF + 100)
    found = []
    for backend in (REFERENCE, TRITON):
        found.append(np.ones(1 << 8, np.uint64))
        backend.histogram(one, prefix=0b10, prefix_bits=2, digit_bits=8, counts=found[-1], threads=1)
    assert np.array_equal(*found)


@pytest.mark.parametrize("kind", ["field", "lp", "amp", "lp_amp"])
def test_ties_are_counted_leaf_by_leaf(kind: str) -> None:
    one = field(LEAF + 77, special=0.01)
    if kind != "field":
        rng = np.random.default_rng(3)
        coarse = [values(rng, dtype, one.size, shift=1) for dtype in (F16, F32)]
        for operand in coarse:
            operand.array[:] = rng.integers(-2, 3, one.size)
        one = ImportanceSource(kind, *(operand.buffer() for operand in coarse))
    levels = {float(value) for value in REFERENCE.values(one, 0, 40)}
    for value in (*sorted(levels)[:4], 0.0, float("nan")):
        found = []
        for backend in (REFERENCE, TRITON):
            counts = np.full(2, 99, np.uint32)
            found.append((backend.count_equal(one, value, counts=counts, threads=1), counts.tolist()))
        assert found[1] == found[0], value


@pytest.mark.parametrize("kind", ["field", "lp", "amp", "lp_amp"])
def test_a_few_values(kind: str) -> None:
    one = field(LEAF + 77)
    if kind != "field":
        rng = np.random.default_rng(4)
        one = ImportanceSource(kind, *(values(rng, dtype, one.size).buffer() for dtype in (F64, BF16)))
    for start, stop in ((0, 3), (LEAF, LEAF + 77), (5, 5)):
        assert same_floats(TRITON.values(one, start, stop), REFERENCE.values(one, start, stop))


def test_merges_are_queued_and_launched_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [ties(size, (F32, BF16)) for size in (0, 9, 90)]
    outputs = [[Operand(F16, one.size) for one in sources] for _ in range(2)]
    launched: list[int] = []
    launch = triton_backend.launch_evaluate

    def counting(device: torch.device, segments, **options) -> None:
        launched.append(len(segments))
        launch(device, segments, **options)

    monkeypatch.setattr(triton_backend, "launch_evaluate", counting)
    for backend, outs in zip((REFERENCE, TRITON), outputs, strict=True):
        with backend.grouped():
            for one, out in zip(sources, outs, strict=True):
                backend.evaluate(one, out=out.buffer(), threads=1)
            assert launched == []
    assert launched == [3]
    assert all(np.array_equal(ours.bits(), theirs.bits()) for theirs, ours in zip(*outputs, strict=True))


def test_operands_with_strides() -> None:
    one = ties(100)
    wide = np.random.default_rng(6).standard_normal((10, 20)).astype(np.float32)
    strided = replace(one, base=Buffer.from_numpy(wide[:, ::2]))
    outputs = [np.zeros((10, 30), np.float32) for _ in range(2)]
    for backend, out in zip((REFERENCE, TRITON), outputs, strict=True):
        backend.evaluate(strided, out=Buffer.from_numpy(out[:, ::3]), threads=1)
    assert np.array_equal(*outputs)
    assert outputs[0].any()
    # A statistic sees δ itself.
    ours, theirs = (backend.order_statistic(strided, 50, threads=1) for backend in (TRITON, REFERENCE))
    assert ours == theirs


def test_views_of_a_tensor_are_found_again() -> None:
    whole = torch.arange(24.0, dtype=torch.bfloat16).reshape(4, 6)
    for view in (whole, whole.t(), whole[1:, ::2], whole[2], whole[:0]):
        assert torch.equal(packing.tensor_of(Buffer.from_torch(view)), view)
    piece = Buffer.from_torch(whole).slice(5, 9)
    assert packing.tensor_of(piece).tolist() == [5, 6, 7, 8]
    assert packing.tensor_of(piece).data_ptr() == piece.address


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(
    ("row", "chances"),
    [(1, (1 << 30, 1 << 31)), (7, (0, (1 << 32) - 1)), (100, (1 << 29, 7 << 29)), (300, (1 << 32, 1 << 32))],
)
def test_gates_by_rank(row: int, chances: tuple[int, int], scaled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(row)
    size = row * max(3, 300 // row)
    base, model = (values(rng, dtype, size, special=0.05) for dtype in (F32, BF16))
    model.array[rng.random(size) < 0.3] = model.array[0]
    wrong = rng.random(size) < 0.1
    model.array[wrong] = rng.choice([0x7FC1, 0x7FFF, 0xFFC0], int(wrong.sum()))  # NaN, all of one rank
    base.array[rng.random(size) < 0.5] = 0.0
    monkeypatch.setattr(triton_backend, "COPIES", 48 * 210)  # some rows at a time
    for offset in (0, 5, 1 << 40):
        outputs = [Operand(F32, size) for _ in range(2)]
        for backend, out in zip((REFERENCE, TRITON), outputs, strict=True):
            backend.rank_gate(
                base.buffer(), model.buffer(), row=row, chances=chances, scaled=scaled, seed=(1 << 64) - 3,
                tensor=(1 << 32) - 1, task=2, offset=offset, out=out.buffer(), threads=1,
            )  # fmt: skip
        assert np.array_equal(outputs[1].bits(), outputs[0].bits())
        assert outputs[1].guards_hold()
    with pytest.raises(ValueError, match="divisor"):
        TRITON.rank_gate(
            base.buffer(), model.buffer(), row=size + 1, chances=chances, scaled=scaled, seed=1, tensor=1, task=1,
            offset=0, out=outputs[0].buffer(), threads=1,
        )  # fmt: skip
