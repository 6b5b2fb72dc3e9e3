"""A caller's mistakes: the exception's type, and that its message names the tensor and the reason."""

from __future__ import annotations

import pytest
import torch

from sta_kernels import ops

X = torch.arange(1.0, 13.0).reshape(3, 4)
WRONG_SHAPE = X.t()
META = X.to("meta")
SPARSE = X.to_sparse()
INT64 = X.long()
FLOAT8 = X.to(torch.float8_e4m3fn)
COMPLEX = X.to(torch.complex64)


def merge(base=X, finetuned=(X, X), importances=(X, X), **knobs):
    return ops.sta_merge(base, finetuned, importances, **knobs)


def forget(target=X, base=X, finetuned=X, importance=X, **knobs):
    return ops.sta_forget(target, base, finetuned, importance, **knobs)


MISTAKES = [
    (lambda: merge(p=torch.tensor(0.7)), TypeError, "p: a tensor given; a number is needed"),
    (lambda: forget(p=torch.tensor(0.7)), TypeError, "p: a tensor given; a number is needed"),
    # sta_merge
    (lambda: merge(finetuned=[X, WRONG_SHAPE]), ValueError, r"finetuned\[1\]: shape \[4, 3\], base has \[3, 4\]"),
    (lambda: merge(importances=[WRONG_SHAPE, X]), ValueError, r"importances\[0\]: shape \[4, 3\], base has \[3, 4\]"),
    (lambda: merge(finetuned=[X, META]), ValueError, r"finetuned\[1\]: on meta, base is on cpu"),
    (lambda: merge(base=META), ValueError, r"finetuned\[0\]: on cpu, base is on meta"),
    (lambda: merge(base=INT64), TypeError, r"base: dtype torch\.int64; float32, bfloat16, float16 or float64"),
    (lambda: merge(finetuned=[X, FLOAT8]), TypeError, r"finetuned\[1\]: dtype torch\.float8_e4m3fn"),
    (lambda: merge(importances=[COMPLEX, X]), TypeError, r"importances\[0\]: dtype torch\.complex64"),
    (lambda: merge(finetuned=[X, SPARSE]), TypeError, r"finetuned\[1\]: layout torch\.sparse_coo"),
    (lambda: merge(base="x"), TypeError, "base: str given; a tensor is needed"),
    (lambda: merge(finetuned=X), TypeError, "finetuned: Tensor given; a list of tensors"),
    (lambda: merge(finetuned=None), TypeError, "finetuned: NoneType given; a list of tensors"),
    (lambda: merge(finetuned=[X, 3]), TypeError, r"finetuned\[1\]: int given; a tensor is needed"),
    (lambda: merge(finetuned=[], importances=[]), ValueError, "finetuned: empty"),
    (lambda: merge(importances=None), ValueError, "importances: 0 given, finetuned has 2"),
    (lambda: merge(importances=[X]), ValueError, "importances: 1 given, finetuned has 2"),
    (lambda: merge(measure="amp"), ValueError, "importances: given, but measure 'amp'"),
    (lambda: merge(measure="grad"), ValueError, "measure: 'grad'; one of lp, amp, lp_amp"),
    (lambda: merge(ties="keep"), ValueError, "ties: 'keep'; one of drop, all, first"),
    (lambda: merge(p=-0.1), ValueError, r"p: -0\.1; a number in \[0, 1\]"),
    (lambda: merge(p=float("nan")), ValueError, "p: nan"),
    (lambda: merge(keep=3), ValueError, "keep: 3; 0 to 2"),
    (lambda: merge(keep=-1), ValueError, "keep: -1; 0 to 2"),
    (lambda: merge(weight=[1.0]), ValueError, "weight: 1 given, finetuned has 2"),
    (lambda: merge(weight=[1.0, float("inf")]), ValueError, r"weight\[1\]: inf; a finite"),
    (lambda: merge(lambda_=1e39), ValueError, r"lambda_: 1e\+39; a finite float32"),
    (lambda: merge(normaliser=torch.ones(3, 2)), ValueError, r"normaliser: shape \[3, 2\]; \[2, 2\]"),
    (lambda: merge(normaliser=torch.ones(2, 2).double()), TypeError, r"normaliser: dtype torch\.float64; float32"),
    (lambda: merge(normaliser=torch.ones(2, 2, device="meta")), ValueError, "normaliser: on meta"),
    (lambda: merge(kept=torch.ones(3)), TypeError, r"kept: dtype torch\.float32; int64"),
    (lambda: merge(kept=torch.ones(4).long()), ValueError, r"kept: shape \[4\]; \[2\] or \[3\]"),
    (lambda: merge(kept=torch.ones(2, 1).long()), ValueError, r"kept: shape \[2, 1\]"),
    (lambda: merge(out=WRONG_SHAPE.clone()), ValueError, r"out: shape \[4, 3\], base has \[3, 4\]"),
    (lambda: merge(out=INT64.clone()), TypeError, r"out: dtype torch\.int64"),
    # sta_forget
    (lambda: forget(base=WRONG_SHAPE), ValueError, r"base: shape \[4, 3\], target has \[3, 4\]"),
    (lambda: forget(finetuned=WRONG_SHAPE), ValueError, r"finetuned: shape \[4, 3\], target has"),
    (lambda: forget(importance=WRONG_SHAPE), ValueError, r"importance: shape \[4, 3\], target has"),
    (lambda: forget(target=INT64), TypeError, r"target: dtype torch\.int64"),
    (lambda: forget(target=3), TypeError, "target: int given"),
    (lambda: forget(importance=None), ValueError, "importance: None given; measure 'lp' reads one"),
    (lambda: forget(measure="amp"), ValueError, "importance: given, but measure 'amp'"),
    (lambda: forget(p=2.0), ValueError, r"p: 2\.0"),
    (lambda: forget(weight=float("nan")), ValueError, "weight: nan"),
    (lambda: forget(lambda_=float("inf")), ValueError, "lambda_: inf"),
    (lambda: forget(kept=torch.ones(2).long()), ValueError, r"kept: shape \[2\]; \[1\]"),
    (lambda: forget(out=WRONG_SHAPE.clone()), ValueError, r"out: shape \[4, 3\], target has"),
    # statistics
    (lambda: ops.minmax([]), ValueError, "tensors: empty"),
    (lambda: ops.minmax(X), TypeError, "tensors: Tensor given"),
    (lambda: ops.minmax([X, INT64]), TypeError, r"tensors\[1\]: dtype torch\.int64"),
    (lambda: ops.minmax([X, META]), ValueError, r"tensors\[1\]: on meta, tensors\[0\] is on cpu"),
    (lambda: ops.normaliser([X], "median"), ValueError, "kind: 'median'; one of minmax, mean"),
    (lambda: ops.normaliser([]), ValueError, "tensors: empty"),
    (lambda: ops.normaliser([X, []]), ValueError, r"tensors\[1\]: empty"),
    (lambda: ops.normaliser([X, [3]]), TypeError, r"tensors\[1\]\[0\]: int given"),
    (lambda: ops.normaliser(X), TypeError, "tensors: Tensor given"),
    (lambda: torch.ops.sta_kernels.normaliser([X], [1, 1], "mean"), ValueError, r"blocks: \[1, 1\]; 1 tensors"),
    (lambda: ops.order_statistic(X, 0), ValueError, "k: 0; 1 to 12"),
    (lambda: ops.order_statistic(X, 13), ValueError, "k: 13; 1 to 12"),
    (lambda: ops.order_statistic(torch.empty(0), 1), ValueError, "k: 1; 1 to 0"),
    (lambda: ops.order_statistic(INT64, 1), TypeError, r"x: dtype torch\.int64"),
    # taylor
    (lambda: ops.taylor_accumulate_(X.clone(), WRONG_SHAPE), ValueError, r"grad: shape \[4, 3\], total has \[3, 4\]"),
    (lambda: ops.taylor_accumulate_(X.clone(), SPARSE), TypeError, r"grad: layout torch\.sparse_coo"),
    (lambda: ops.taylor_accumulate_(INT64.clone(), X), TypeError, r"total: dtype torch\.int64"),
    (lambda: ops.taylor_accumulate_(X.clone(), None), TypeError, "grad: NoneType given"),
    (lambda: ops.taylor_finish(X, WRONG_SHAPE), ValueError, r"param: shape \[4, 3\], total has"),
    (lambda: ops.taylor_finish(X, X, measure="mean"), ValueError, "measure: 'mean'"),
    (lambda: ops.taylor_finish(X, X, out=WRONG_SHAPE.clone()), ValueError, r"out: shape \[4, 3\], total has"),
    # linear, task_arithmetic
    (lambda: ops.linear(X, [X, WRONG_SHAPE]), ValueError, r"finetuned\[1\]: shape \[4, 3\], base has"),
    (lambda: ops.linear(None, [X, WRONG_SHAPE]), ValueError, r"finetuned\[1\]: shape \[4, 3\], finetuned\[0\] has"),
    (lambda: ops.linear(None, []), ValueError, "finetuned: empty"),
    (lambda: ops.linear(INT64, [X]), TypeError, r"base: dtype torch\.int64"),
    (lambda: ops.linear(X, [X], weight=[1.0, 2.0]), ValueError, "weight: 2 given, finetuned has 1"),
    (lambda: ops.linear(X, [X], out=WRONG_SHAPE.clone()), ValueError, "out: shape"),
    (lambda: ops.task_arithmetic(X, [FLOAT8]), TypeError, r"finetuned\[0\]: dtype torch\.float8_e4m3fn"),
    (lambda: ops.task_arithmetic(X, [X], lambda_=float("nan")), ValueError, "lambda_: nan"),
    (lambda: ops.task_arithmetic(None, [X]), TypeError, "base: NoneType given"),
    (lambda: ops.task_arithmetic(X, [X], out=INT64.clone()), TypeError, r"out: dtype torch\.int64"),
]


@pytest.mark.parametrize(("call", "error", "message"), MISTAKES, ids=[message for *_, message in MISTAKES])
def test_mistake(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_error_writes_nothing():
    out, kept = torch.zeros(3, 4), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="lambda_"):
        merge(lambda_=float("nan"), out=out, kept=kept)
    assert not out.any()
    assert not kept.any()


class TestOverlap:
    def test_partial(self):
        memory = torch.arange(30.0)
        base, out = memory[:12].reshape(3, 4), memory[6:18].reshape(3, 4)
        for call in (
            lambda: merge(base=base, out=out),
            lambda: ops.task_arithmetic(base, [X], out=out),
            lambda: forget(base=base, out=out),
        ):
            with pytest.raises(ValueError, match="out: shares memory with base in part or in another layout"):
                call()
        with pytest.raises(ValueError, match=r"out: shares memory with finetuned\[1\]"):
            ops.linear(base, [X, base], out=out)
        with pytest.raises(ValueError, match="total: shares memory with grad in part"):
            ops.taylor_accumulate_(out, base)
        with pytest.raises(ValueError, match="out: shares memory with total in part"):
            ops.taylor_finish(base, X, out=out)
        assert torch.equal(memory, torch.arange(30.0))

    def test_another_layout_or_dtype(self):
        square = torch.arange(16.0).reshape(4, 4)
        with pytest.raises(ValueError, match="shares memory with base"):
            ops.sta_merge(square, [square.clone()], [square.clone()], out=square.t())
        half = torch.ones(4, dtype=torch.float16)
        with pytest.raises(ValueError, match="shares memory with base"):
            ops.task_arithmetic(half, [half.clone()], out=half.view(torch.bfloat16))

    def test_importances_and_parameters_are_never_out(self):
        importances = [X.clone(), X.clone()]
        with pytest.raises(ValueError, match=r"out: shares memory with importances\[1\]; pass"):
            merge(importances=importances, out=importances[1])
        table = torch.ones(12).reshape(3, 4)
        with pytest.raises(ValueError, match="out: shares memory with normaliser; pass"):
            merge(normaliser=table.view(6, 2)[:2], out=table)
        with pytest.raises(ValueError, match="out: shares memory with importance; pass"):
            forget(importance=importances[0], out=importances[0])
        with pytest.raises(ValueError, match="out: shares memory with param; pass"):
            ops.taylor_finish(X, importances[0], out=importances[0])

    def test_own_elements(self):
        with pytest.raises(ValueError, match="out: its own elements share memory"):
            merge(out=torch.ones(1, 4).expand(3, 4))
        with pytest.raises(ValueError, match="out: its own elements share memory"):
            merge(out=torch.ones(12).as_strided((3, 4), (2, 1)))
        with pytest.raises(ValueError, match="total: its own elements share memory"):
            ops.taylor_accumulate_(torch.ones(1, 4).expand(3, 4), X)

    def test_interleaved_views_of_one_buffer_share_nothing(self):
        stacked = torch.stack([X, X + 1, torch.zeros(3, 4)], dim=-1)
        base, model, out = stacked.unbind(-1)
        ops.task_arithmetic(base, [model], out=out)
        assert torch.equal(stacked, torch.stack([X, X + 1, X + 1], dim=-1))
