"""Every op on a device against the reference; the same tests run on a GPU and in the interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from device_operands import DTYPES, LAYOUTS, Operands, check, same

from sta_kernels import ops
from sta_kernels.kernels.triton import immediate
from sta_kernels.ops._flat import Flat

F32, BF16, F16, F64 = DTYPES
SHAPE = (5, 37)


@pytest.mark.parametrize(
    ("n_tasks", "weights", "importances"),
    [(1, F32, F32), (2, BF16, F32), (3, BF16, BF16), (4, F16, F32), (6, F32, F32), (3, F64, F64), (9, BF16, F32)],
    ids=str,
)
@pytest.mark.parametrize("measure", ["lp", "amp", "lp_amp"])
def test_sta_merge(device: torch.device, n_tasks: int, weights: Any, importances: Any, measure: str):
    o = Operands(device, SHAPE, n_tasks, weights, importances)
    scores = None if measure == "amp" else o.importances
    kept = torch.full((n_tasks + 1,), -1, device=device)
    check(ops.sta_merge, o.base, o.finetuned, scores, measure=measure, kept=kept)
    check(ops.sta_merge, o.base, o.finetuned, scores, measure=measure, weight=[0.5] * n_tasks, lambda_=0.4)


@pytest.mark.parametrize("ties", ["drop", "all", "first"])
@pytest.mark.parametrize("keep", [0, 1, 3])
def test_ties_and_keep(device: torch.device, ties: str, keep: int):
    o = Operands(device, SHAPE, 3)
    kept = torch.full((3,), -1, device=device)
    check(ops.sta_merge, *o, keep=keep, ties=ties, lambda_=0.3, kept=kept)


@pytest.mark.parametrize("base", LAYOUTS)
@pytest.mark.parametrize("others", ["contiguous", "transposed", "gaps", "misaligned"])
def test_layouts(device: torch.device, base: str, others: str):
    o = Operands(device, SHAPE, 2).laid_out(base, others, others)
    merged = check(ops.sta_merge, *o)
    assert merged.is_contiguous()
    assert not merged.requires_grad


@pytest.mark.parametrize("layout", ["transposed", "gaps", "expanded", "parameter"])
def test_layouts_of_the_other_ops(device: torch.device, layout: str):
    o = Operands(device, SHAPE, 2).laid_out(layout, "contiguous", "transposed")
    check(ops.linear, None, [o.base, *o.finetuned])
    check(ops.task_arithmetic, o.base, o.finetuned, lambda_=0.3)
    check(ops.taylor_accumulate_, o.importances[0], o.base)
    check(ops.taylor_accumulate_, LAYOUTS["gaps"](o.importances[1]), o.base)
    check(ops.taylor_finish, o.importances[0], o.base)
    check(ops.sta_forget, o.base, o.base, o.finetuned[0], o.importances[0])
    check(ops.minmax, [o.base, *o.importances])
    check(ops.normaliser, [o.base, o.importances[0]], "mean")
    check(ops.order_statistic, o.base, 20)


@pytest.mark.parametrize("layout", ["transposed", "contiguous"])
def test_dense_operands_are_taken_as_they_lie(device: torch.device, layout: str, monkeypatch: pytest.MonkeyPatch):
    o = Operands(device, SHAPE, 3).laid_out(layout, layout, layout)
    out, packed = LAYOUTS[layout](torch.empty_like(o.base)), []
    pack = Flat._empty
    monkeypatch.setattr(Flat, "_empty", lambda self, tensor: packed.append(tensor) or pack(self, tensor))
    check(ops.sta_merge, *o, out=out)
    assert packed == []
    ops.sta_merge(
        *o, out=LAYOUTS["contiguous" if layout == "transposed" else "transposed"](torch.empty(SHAPE, device=device))
    )
    assert len(packed) == 1


def test_mixed_dtypes(device: torch.device):
    o = Operands(device, SHAPE, 3)
    models = [each.to(dtype) for each, dtype in zip(o.finetuned, (F32, BF16, F64), strict=True)]
    scores = [each.to(dtype) for each, dtype in zip(o.importances, (F16, F32, F32), strict=True)]
    for base, out in ((BF16, None), (F64, F64), (F32, F16)):
        result = None if out is None else torch.full(SHAPE, torch.nan, dtype=out, device=device)
        check(ops.sta_merge, o.base.to(base), models, scores, out=result)
        check(ops.linear, o.base.to(base), models, out=result)
    check(ops.minmax, [*models, *scores])


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "gaps"])
def test_an_operand_may_be_the_output(device: torch.device, layout: str):
    for place in range(3):
        o = Operands(device, SHAPE, 2).laid_out(layout, layout, layout)
        expected = ops.sta_merge(*o)
        target = (o.base, *o.finetuned)[place]
        assert ops.sta_merge(*o, out=target) is target
        same(target, expected.cpu())
        o = Operands(device, SHAPE, 2).laid_out(layout, layout, layout)
        expected = ops.linear(None, o.finetuned)
        same(ops.linear(None, o.finetuned, out=o.finetuned[place % 2]), expected.cpu())
    total, parameter = o.importances
    expected = ops.taylor_finish(total, parameter)
    same(ops.taylor_finish(total, parameter, out=total), tuple(each.cpu() for each in expected))


def test_an_output_that_overlaps_is_refused(device: torch.device):
    room = torch.zeros(40, device=device)
    with pytest.raises(ValueError, match="out: shares memory with base"):
        ops.sta_merge(room[:-4], [room[:-4].clone()], [room[:-4].clone()], out=room[4:])


@pytest.mark.parametrize("shape", [(0,), (3, 0), (), (1, 1)])
def test_few_elements(device: torch.device, shape: tuple[int, ...]):
    o = Operands(device, shape, 2)
    kept = torch.full((3,), -1, device=device)
    check(ops.sta_merge, *o, kept=kept)
    check(ops.sta_forget, o.base, o.base, o.finetuned[0], o.importances[0], kept=kept[:1])
    check(ops.linear, None, o.finetuned)
    check(ops.minmax, o.importances)
    check(ops.normaliser, o.importances)
    check(ops.normaliser, [o.importances, [o.base]], "mean")
    check(ops.taylor_accumulate_, o.importances[0].clone(), o.base)
    check(ops.taylor_finish, o.importances[0], o.base)


@pytest.mark.parametrize("kind", ["minmax", "mean"])
def test_normaliser_of_blocks(device: torch.device, kind: str):
    large, small = Operands(device, (50, 90), 1), Operands(device, SHAPE, 2, BF16, F32)
    flat = [large.base, *large.importances, small.base, *small.importances]
    assert flat[0].numel() > 4096
    check(ops.normaliser, [flat[:3], flat[3], flat[4:]], kind)
    flat[3][3, 4] = torch.nan
    check(ops.normaliser, [flat[2:4], *flat[4:]], kind)


def test_a_given_normaliser(device: torch.device):
    o = Operands(device, SHAPE, 3)
    table = torch.tensor([[0.1, 0.7], [0.0, 0.0], [-2.0, 1e-30]], device=device)
    check(ops.sta_merge, *o, normaliser=table)
    check(ops.sta_merge, *o, normaliser=table.t().contiguous().t())


def test_importances_that_are_not_numbers(device: torch.device):
    o = Operands(device, SHAPE, 3)
    o.importances[1][2, 3] = torch.nan
    o.importances[2][1] = torch.inf
    o.base[0] = -0.0
    check(ops.sta_merge, *o)
    check(ops.sta_merge, *o, normaliser=torch.tensor([[0.0, 1.0]] * 3, device=device))
    check(ops.minmax, o.importances)
    check(ops.order_statistic, o.importances[1], SHAPE[0] * SHAPE[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_order_statistic(device: torch.device, dtype: Any):
    o = Operands(device, (7, 41), 1, dtype)
    for k, x in ((1, o.base), (287, o.base), (100, o.importances[0])):
        check(ops.order_statistic, x, k)


@pytest.mark.parametrize("measure", ["lp", "amp", "lp_amp"])
@pytest.mark.parametrize("p", [0.0, 0.7, 1.0])
def test_sta_forget(device: torch.device, measure: str, p: float):
    o = Operands(device, SHAPE, 2, BF16, F32)
    score = None if measure == "amp" else o.importances[0]
    kept = torch.full((1,), -1, device=device)
    arguments = (o.finetuned[1], o.base, o.finetuned[0], score)
    result = check(ops.sta_forget, *arguments, p=p, measure=measure, lambda_=0.7, kept=kept)
    ops.sta_forget(*arguments, p=p, measure=measure, lambda_=0.7, out=arguments[0])
    same(arguments[0], result.cpu())


@pytest.mark.parametrize("measure", ["lp", "amp", "lp_amp"])
def test_taylor(device: torch.device, measure: str):
    shape = (50, 90) if measure == "lp_amp" else SHAPE  # more than one leaf
    o = Operands(device, shape, 2, BF16)
    total = torch.zeros(shape, device=device)
    for grad in o.finetuned:
        check(ops.taylor_accumulate_, total, grad)
    check(ops.taylor_finish, total, o.base, measure=measure, out=torch.empty_like(o.base))


def test_errors_are_those_of_other_devices(device: torch.device):
    o = Operands(device, SHAPE, 2)
    with pytest.raises(ValueError, match=r"finetuned\[1\]: shape \[4\], base has \[5, 37\]"):
        ops.sta_merge(o.base, [o.base, o.base.flatten()[:4]], o.importances)
    with pytest.raises(TypeError, match=r"kept: dtype torch\.int32; int64 is needed"):
        ops.sta_merge(*o, kept=torch.zeros(2, dtype=torch.int32, device=device))


def test_compiled_without_a_graph_break(device: torch.device):
    o = Operands(device, SHAPE, 3)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def merge(base, finetuned, importances, p):
        return ops.sta_merge(base, finetuned, importances, p=p) + 1

    for p in (0.7, 0.1):
        assert torch.equal(merge(*o, p), ops.sta_merge(*o, p=p) + 1)


def test_tables_written_by_kernels(device: torch.device, monkeypatch: pytest.MonkeyPatch):
    """What a captured stream takes instead of copies from pinned memory."""
    monkeypatch.setattr(immediate, "capturing", lambda device: True)
    o = Operands(device, SHAPE, 3, BF16, F32)
    kept = torch.zeros(4, dtype=torch.int64, device=device)
    check(ops.sta_merge, *o, weight=[1.0, 0.5, 2.0], kept=kept)
    check(ops.normaliser, [o.importances[:2], o.importances[2]], "mean")
    check(ops.sta_forget, o.base, o.base, o.finetuned[0], o.importances[0])
    check(ops.taylor_finish, o.importances[0], o.base)
